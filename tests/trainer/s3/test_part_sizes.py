from finetune_trainer.s3.uploads import part_bytes


def test_an_object_of_any_size_has_at_most_9000_parts_of_whole_mebibytes() -> None:
    mebibyte = 1024 * 1024
    limit = 9000 * 16 * mebibyte
    assert [part_bytes(size) for size in (0, 1, limit)] == [16 * mebibyte] * 3
    assert part_bytes(limit + 1) == 17 * mebibyte
    for size in (limit + 1, 10**12, 5 * 10**12):
        assert part_bytes(size) % mebibyte == 0
        assert size / part_bytes(size) <= 9000
