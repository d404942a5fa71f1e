// Command health prints how tools see the health of Kubernetes objects: kstatus, the health check of Argo CD in Lua, and
// the health check of Flux in CEL. Each of the three is the library that the tool itself runs.
//
// Input: a JSON document with the key `lua` (a script of Argo CD), the key `cel` (an item of `healthCheckExprs` of Flux)
// and the key `objects` (a list of Kubernetes objects). Output: a JSON list with one result for each object, in the same
// order; a result has the keys `kstatus`, `argocd` and `flux`, each with a status and a message. The program ends with
// exit code 1 and a message if the input cannot be read or a check fails.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type input struct {
	Lua     string                      `json:"lua"`
	CEL     kustomize.CustomHealthCheck `json:"cel"`
	Objects []json.RawMessage           `json:"objects"`
}

type health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type result struct {
	Kstatus health `json:"kstatus"`
	ArgoCD  health `json:"argocd"`
	Flux    health `json:"flux"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var in input
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return fmt.Errorf("reading the input: %w", err)
	}
	flux, err := cel.NewStatusEvaluator(&in.CEL.HealthCheckExpressions)
	if err != nil {
		return err
	}
	results := make([]result, 0, len(in.Objects))
	for _, raw := range in.Objects {
		object := &unstructured.Unstructured{}
		// Numbers without a fraction become int64, as in objects from an API server.
		if err := object.UnmarshalJSON(raw); err != nil {
			return err
		}
		one, err := check(object, in.Lua, flux)
		if err != nil {
			return fmt.Errorf("%s: %w", object.GetName(), err)
		}
		results = append(results, one)
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

func check(object *unstructured.Unstructured, script string, flux *cel.StatusEvaluator) (result, error) {
	generic, err := status.Compute(object)
	if err != nil {
		return result{}, fmt.Errorf("kstatus: %w", err)
	}
	custom, err := flux.Evaluate(context.Background(), object)
	if err != nil {
		return result{}, fmt.Errorf("Flux: %w", err)
	}
	argo, err := argocd(object, script)
	if err != nil {
		return result{}, fmt.Errorf("Argo CD: %w", err)
	}
	return result{
		Kstatus: health{string(generic.Status), generic.Message},
		ArgoCD:  argo,
		Flux:    health{string(custom.Status), custom.Message},
	}, nil
}

// argocd runs a health check with the libraries that Argo CD opens by default: package, base and table.
func argocd(object *unstructured.Unstructured, script string) (health, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", toLua(state, object.Object))
	if err := state.DoString(script); err != nil {
		return health{}, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return health{}, fmt.Errorf("the script returns %s, not a table", state.Get(-1).Type())
	}
	return health{lua.LVAsString(table.RawGetString("status")), lua.LVAsString(table.RawGetString("message"))}, nil
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case string:
		return lua.LString(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	}
	return lua.LNil
}
