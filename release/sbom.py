"""Writes the bill of materials of an image in CycloneDX 1.6 (https://cyclonedx.org)."""

from collections.abc import Iterable

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from release.packages import Package

_DISTRIBUTION = {"pypi": (None, None), "deb": ("debian", {"distro": "debian-12"})}
"""Namespace and qualifiers of package URLs, by kind."""


def bill_of_materials(image: str, version: str, packages: Iterable[Package]) -> str:
    """Returns the bill of materials of an image as JSON.

    Args:
        image: name of the image.
        version: version of the product.
        packages: the packages of the image.
    """
    bom = Bom()
    bom.metadata.component = Component(
        name=image, version=version, type=ComponentType.CONTAINER, bom_ref=f"image:{image}"
    )
    for package in packages:
        bom.components.add(_component(package))
    bom.register_dependency(bom.metadata.component, bom.components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n"


def _component(package: Package) -> Component:
    namespace, qualifiers = _DISTRIBUTION[package.kind]
    url = PackageURL(package.kind, namespace, package.name, package.version, qualifiers)
    licences = [LicenseFactory().make_from_string(package.licence)] if package.licence else []
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=url.to_string(),
        licenses=licences,
    )
