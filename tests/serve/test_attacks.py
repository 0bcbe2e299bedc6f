"""What a model server must survive, sent to a real server; `ROWS` says where each class of attack is sent.

The classes are those that other servers of this field had to mend (CVEs of Triton, BentoML, TorchServe, MLflow, Ray and
others). Here: names, callers, and what stands in requests.
"""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serve.wire import FITTING, HEAD, INFER, TENSOR, ask, post, raw, refused, right, serving

from headway.bundles.bundle import Bundle
from headway.serve.server import Server

Seal = Callable[..., Bundle]
TESTS = Path(__file__).parents[1]
MINE, HTTP = "serve/test_attacks", "serve/test_attacks_http"
BUNDLES, GRPC = "serve/test_attacks_bundles", "serve/test_attacks_grpc"

ROWS: dict[str, list[str]] = {
    "1 traversal in names, versions, labels": [
        f"{MINE}::test_names_that_climb_find_nothing_and_odd_ones_are_legal",
        "serve/test_server::test_a_wrong_request_has_its_status_and_says_why",
        "serve/test_repository::test_a_wrong_call_has_its_status_and_changes_nothing",
        "bundles/test_bundle::test_bad_names",
        "bundles/test_bundle::test_paths_that_leave_the_bundle",
    ],
    "2 traversal in a load call's files": [
        "serve/test_repository::test_a_sealed_archive_may_come_with_the_call_and_nothing_else",
        f"{BUNDLES}::test_an_evil_archive_that_comes_with_a_load_call",
    ],
    "3 archive slip; symlink then write": [
        f"{BUNDLES}::test_an_evil_archive_that_comes_with_a_load_call",
        "bundles/test_archive::test_slips_are_refused_and_write_nothing",
        "bundles/test_archive::test_a_symbolic_link_is_refused",
    ],
    "4 SSRF through a model URL": [f"{BUNDLES}::test_a_load_call_reaches_no_address_and_no_path"],
    "5 pickle or unsafe YAML": [
        f"{BUNDLES}::test_an_evil_archive_that_comes_with_a_load_call",
        "bundles/test_npz::test_pickled_objects_are_refused_and_not_run",
        "runtimes/test_formats::test_a_pickle_is_refused_with_the_way_out_and_not_run",
    ],
    "6 change between verify and load; extra files": [
        "bundles/test_bundle::test_an_extra_file_even_one_that_the_signature_would_ignore",
        "bundles/test_bundle::test_a_manifest_that_changes_after_opening",
        "serve/test_loading::test_it_is_loaded_from_a_folder_that_others_cannot_change",
        "serve/test_loading::test_a_bundle_that_is_sound_no_longer_does_not_load_from_the_copy_of_when_it_was",
    ],
    "8 host header confusion": [
        f"{MINE}::test_who_may_is_not_told_by_a_second_header_or_the_request_line",
        "serve/test_repository::test_a_web_page_can_neither_load_nor_unload",
    ],
    "10 oversize bodies, lying lengths": [
        "serve/test_server::test_bodies_past_the_bound_are_refused_by_what_they_say_and_by_what_they_are",
        "serve/test_server::test_a_content_length_that_lies_never_reaches_the_model",
        f"{HTTP}::test_a_header_length_that_lies",
        f"{HTTP}::test_a_body_that_breaks_off",
        f"{HTTP}::test_large_bodies_at_a_time_are_bounded",
        f"{GRPC}::test_a_message_of_too_many_parts_is_refused_unparsed",
    ],
    "11 floods of tiny chunks": [f"{HTTP}::test_a_flood_of_tiny_chunks"],
    "12 decompression bomb": [
        f"{HTTP}::test_bombs_are_refused_and_leave_no_memory_behind",
        "serve/test_rest::test_compressed_bodies_that_lie_are_refused",
        "processing/test_pictures::test_a_bomb_is_refused_by_its_header",
        "serve/test_stages::test_a_bad_row_fails_its_own_request_alone_and_says_why",
    ],
    "13 slowloris": [
        f"{HTTP}::test_clients_that_send_no_more_keep_nobody_out",
        f"{HTTP}::test_1030_clients_that_send_no_more_keep_nobody_out",
        "serve/test_server::test_a_body_that_does_not_come_is_given_up_on",
        "serve/test_grpc_stream::test_a_call_whose_request_does_not_come_is_given_up",
    ],
    "14 JSON": [f"{MINE}::test_hostile_json", "serve/test_open_inference::test_a_body_that_is_no_request"],
    "15 shapes and sizes": [
        f"{MINE}::test_hostile_tensors",
        f"{GRPC}::test_hostile_tensors",
        "serve/test_open_inference::test_a_binary_tensor_that_lies",
        "serve/test_stages::test_hostile_texts",
    ],
    "16 thousands of outputs, classes": [f"{MINE}::test_hostile_outputs", f"{GRPC}::test_hostile_tensors"],
    "17 reserved parameters; smuggling": [
        f"{HTTP}::test_no_second_request_is_smuggled_in",
        f"{MINE}::test_hostile_outputs",
    ],
    "18 shared memory": [f"{BUNDLES}::test_hostile_regions_of_shared_memory"],
    "19 multipart": [f"{HTTP}::test_multipart_is_no_request_and_writes_no_file"],
    "20 injection from metadata": [
        "shipping/test_pack::test_names_in_the_model_are_text_in_the_report",
        "shipping/test_pack::test_names_and_versions_that_will_not_do",
    ],
    "21 cache poisoning": [
        f"{MINE}::test_credentials_that_cannot_be_read_are_nobodys",
        "serve/test_cache_served::test_another_model_or_version_never_gets_the_answer",
        "serve/test_cache_served::test_another_tenant_never_gets_the_answer",
        "serve/test_cache_served::test_a_running_answer_is_shared_within_a_tenant_alone",
    ],
    "22 log injection, secrets, labels": [
        "serve/test_seen_from_outside::test_nothing_that_is_sent_forges_a_line_or_leaves_a_secret",
        "serve/test_seen_from_outside::test_no_caller_makes_a_label",
        "observe/test_traces::test_a_hostile_tracestate_is_dropped_and_not_logged",
    ],
    "23 CSRF and DNS rebinding": [
        "serve/test_repository::test_a_web_page_can_neither_load_nor_unload",
        "serve/test_repository::test_a_server_that_others_reach_is_not_controlled_unless_its_owner_says_so",
    ],
    "24 streams and unread responses": [
        f"{HTTP}::test_an_answer_that_nobody_reads_is_given_up",
        f"{GRPC}::test_a_stream_that_is_never_read_is_soon_not_read_either",
        "serve/test_grpc_stream::test_streams_leave_room_for_requests",
    ],
    "25 readiness that lies": [
        "serve/test_seen_from_outside::test_nobody_is_told_ready_before_the_golden_samples_matched",
        "serve/test_seen_from_outside::test_a_bundle_whose_golden_samples_differ_never_answers",
    ],
    "a cancelled caller leaves its batch mates waiting": [
        "serve/test_runner::test_a_caller_that_leaves_takes_its_queued_work_along_and_nobody_elses",
        "serve/test_server::test_32_callers_of_whom_some_vanish_get_their_own_answers",
    ],
    "a size function that raises hangs those who follow": [
        "serve/test_batcher::test_a_request_larger_than_the_queue_is_refused_although_nobody_waits",
        "serve/test_runner::test_exactly_one_answer_each_under_cancel_failure_and_load",
        "serve/test_stages::test_whatever_a_stage_raises_the_thread_lives_on",
    ],
    "one bad request fails its batch": ["serve/test_server::test_one_bad_request_does_not_fail_its_batch_mates"],
    "busy errors once batching is on": ["serve/test_server::test_a_full_queue_says_when_to_come_back"],
    "load and swap": [
        "serve/test_swap::test_no_request_is_lost_and_each_has_one_versions_answer",
        "serve/test_swap::test_loads_and_unloads_that_come_all_at_once",
        "serve/test_swap::test_memory_is_flat_over_50_swaps",
        "serve/test_swap::test_it_shuts_down_while_a_model_is_being_loaded",
    ],
    "long work holds everybody up": [
        f"{HTTP}::test_others_are_answered_while_a_long_request_is_read",
        f"{GRPC}::test_a_message_of_too_many_parts_is_refused_unparsed",
    ],
    "HTTP fuzz": [
        f"{HTTP}::test_a_damaged_request_is_answered_or_closed",
        f"{HTTP}::test_odd_requests_are_answered_in_json",
        f"{GRPC}::test_a_damaged_message_is_answered",
    ],
    "queue timeout": [f"{HTTP}::test_a_timeout_that_passes_is_504"],
}  # fmt: skip
LATER = {
    7: "authorization: there are no roles yet; control calls are guarded as a whole, see row 23",
    9: "default credentials: there are no credentials yet",
    22: "its audit half: there is no audit log yet",
}


def test_every_class_has_its_tests_or_its_reason() -> None:
    numbers = {int(row.split()[0]) for row in ROWS if row[0].isdigit()}
    assert numbers | LATER.keys() == set(range(1, 26))
    for tests in ROWS.values():
        assert tests
        for test in tests:
            file, _, name = test.partition("::")
            assert f"\ndef {name}(" in (TESTS / f"{file}.py").read_text(), test


@pytest.fixture
def server(sealed: Seal) -> Iterator[Server]:
    with serving(sealed("linear"), sealed("texts"), choose_seconds=0, threads=1) as server:
        yield server
        assert right(server), "it answers no longer"


# Names, and who may


def test_names_that_climb_find_nothing_and_odd_ones_are_legal(sealed: Seal) -> None:
    odd = ("..my_model", "model..1")
    climbing = (
        "..",
        ".",
        "%2e%2e",
        "..%2f..%2fetc",
        "a/../linear",
        "linear%00",
        "linear%2f..",
        "%20",
        "%09",
        "~",
        "%5c",
    )
    with serving(*(sealed("linear", called=name) for name in odd), choose_seconds=0) as server:
        for name in odd:
            assert post(server, f"/v2/models/{name}/infer", {"inputs": [TENSOR]})[0] == 200
        for name in climbing:
            for path in (f"/v2/models/{name}/infer", f"/v2/models/..my_model/versions/{name}/infer",
                         f"/v2/repository/models/{name}/unload"):  # fmt: skip
                refused(ask(server, "POST", path, FITTING), 404)


def test_who_may_is_not_told_by_a_second_header_or_the_request_line(server: Server) -> None:
    line = b"POST /v2/repository/models/linear/unload HTTP/1.1\r\n"
    for head in (
        line + b"Host: localhost\r\nHost: evil.example\r\n",
        line + b"Host: evil.example\r\nHost: localhost\r\n",
        line + b"Host: evil.example\r\nX-Forwarded-Host: localhost\r\nForwarded: host=localhost\r\n",
        line + b"Host: localhost\r\nOrigin: \xff\r\n",
        line + b"Host: \xff\r\n",
        line,
        line.replace(b" /", b" http://localhost/") + b"Host: evil.example\r\n",
    ):
        assert b" 403 Forbidden" in raw(server, head + b"Connection: close\r\nContent-Length: 0\r\n\r\n"), head
    assert b" 404 " in raw(server, line.replace(b"linear", b"x") + b"Host: localhost\r\nContent-Length: 0\r\n\r\n")


def test_credentials_that_cannot_be_read_are_nobodys(server: Server) -> None:
    """Two callers whose credentials are not ASCII must not be one tenant, nor that of those who send none."""
    for lines, status in (
        (b"Authorization: \xff\r\n", 400),
        (b"Authorization: a\r\n" * 2, 400),
        (b"authorization: a\r\n", 200),
    ):
        assert (
            b" %d " % status in raw(server, HEAD + lines + b"Content-Length: %d\r\n\r\n" % len(FITTING) + FITTING)[:20]
        )


# What stands in them


JSON_ATTACKS: list[tuple[bytes, int, str]] = [
    (b'{"inputs": [NaN]}', 400, "NaN is not JSON"),
    (FITTING.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, Infinity]"), 400, "Infinity is not JSON"),
    (FITTING.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, -Infinity]"), 400, "-Infinity is not JSON"),
    (FITTING.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, 1e999]"), 400, "out of the range"),
    (FITTING.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, 1e39]"), 400, "out of the range"),
    (FITTING.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, " + b"9" * 400 + b"]"), 400, "FP32 numbers"),
    (FITTING.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, " + b"9" * 100_000 + b"]"), 400, "not valid JSON"),
    (FITTING.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, true]"), 400, "FP32 numbers throughout"),
    (FITTING.replace(b"[1, 2, 3, 4]", b"[[1, 2, 3, false]]"), 400, "FP32 numbers throughout"),
    (FITTING.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, null]"), 400, "FP32 numbers throughout"),
    (FITTING.replace(b"[1, 2, 3, 4]", b'[1, 2, 3, "4"]'), 400, "FP32 numbers throughout"),
    (b'{"inputs": [], ' + FITTING[1:], 400, "a key stands twice"),
    (FITTING.replace(b'"name"', b'"name": "x", "n\\u0061me"'), 400, "a key stands twice"),
    (b"[" * 65 + b"]" * 65, 400, "nested too deeply"),
    (b"[" * 200_000, 400, "nested too deeply"),
    (b'{"a":' * 100_000, 400, ""),
    (b"[" + b"[]," * 300_000 + b"[]]", 400, "lists and objects"),
    (b"{" + b",".join(b'"%d":0' % n for n in range(70_000)) + b"}", 400, "keys"),
    (b'{"inputs": "\xff"}', 400, "not valid JSON"),
    (b"\xef\xbb\xbf" + FITTING, 400, "not valid JSON"),
    (FITTING.decode().encode("utf-16"), 400, "not valid JSON"),
    (FITTING.replace(b'"input"', b'"\\ud800"'), 400, ""),
    (FITTING.replace(b'"input"', b'"\\u0000\\u001b[31m"'), 400, "no input is called"),
    (b"null", 400, "must be a JSON object"),
    (b"", 400, "not valid JSON"),
    (b" " * 17_000_000, 413, "bytes of JSON"),
]  # fmt: skip


def test_hostile_json(server: Server) -> None:
    for body, status, says in JSON_ATTACKS:
        refused(ask(server, "POST", INFER, body), status, says)
        if len(body) < 1000:
            refused(ask(server, "POST", INFER.replace("infer", "generate"), body), status)


def tensor(**other: Any) -> bytes:
    return json.dumps({"inputs": [TENSOR | other]}).encode()


def binary(
    blob: bytes, *, size: Any = None, told: dict[str, str] | None = None, **other: Any
) -> tuple[bytes, dict[str, str]]:
    """A request whose one tensor is binary."""
    about = {key: value for key, value in (TENSOR | other).items() if key != "data"}
    head = json.dumps({"inputs": [about | {"parameters": {"binary_data_size": len(blob) if size is None else size}}]})
    return head.encode() + blob, told or {"Inference-Header-Content-Length": str(len(head))}


def test_hostile_tensors(server: Server) -> None:
    shapes: list[Any] = [
        [-1, 4], [0, 4], [1, -4], [1 << 63, 4], [1 << 62, 4], [1 << 32, 1 << 32], [1 << 62] * 32, [1] * 33,
        [1] * 100_000, ["1", 4], [1.0, 4], [True, 4], [None], [[1, 4]], "1,4", {}, None, [2, 4], [4], [4, 1], [],
    ]  # fmt: skip
    for shape in shapes:
        refused(ask(server, "POST", INFER, tensor(shape=shape)), 400, "input 'input'")
        refused(ask(server, "POST", INFER, *binary(bytes(16), shape=shape)), 400, "input 'input'")
    for size in (-1, -(1 << 63), "16", 16.0, True, [], {}, 15, 17, 1 << 31, 1 << 63, 1 << 64):
        refused(ask(server, "POST", INFER, *binary(bytes(16), size=size)), 400, "input 'input'")
    for blob in (bytes(15), bytes(17), b""):
        refused(ask(server, "POST", INFER, *binary(blob, size=16)), 400)
    for kind in ("fp32", "FP128", "", None, 7, [], "OBJECT", "O8"):
        refused(ask(server, "POST", INFER, tensor(datatype=kind)), 400, "input 'input'")
    path = INFER.replace("linear", "texts")
    for blob, count in (
        (struct.pack("<I", 5) + b"1234", 1),
        (struct.pack("<I", 0xFFFFFFFF), 1),
        (struct.pack("<I", 1) + b"12", 1),
        (struct.pack("<II", 0, 4), 2),
        (b"\0\0\0", 1),
        (bytes(4), 1 << 40),
        (bytes(8000), 2000),
        (bytes(8 << 20), 2 << 20),
    ):
        body, told = binary(blob, name="text", datatype="BYTES", shape=[count])
        answer = ask(server, "POST", path, body, told)
        refused(answer, 413 if count > 1024 else 400)


def test_hostile_outputs(server: Server) -> None:
    def asked(*outputs: Any, **parameters: Any) -> tuple[int, Any, bytes]:
        return ask(server, "POST", INFER, json.dumps(
            {"inputs": [TENSOR], "outputs": outputs, "parameters": parameters}).encode())  # fmt: skip

    refused(asked(*[{"name": f"o{number}"} for number in range(50_000)]), 400, "entries")
    refused(asked({"name": "logits"}, {"name": "logits"}), 400, "stands twice")
    for output in ("logits", None, {}, {"name": None}, {"name": ["logits"]}, {"name": "x" * 100_000}):
        refused(asked(output), 400)
    for classes in (-1, 1.5, "3", True, 1 << 63, 1 << 64, None):
        refused(asked({"name": "logits", "parameters": {"classification": classes}}), 400, "classification")
    most = asked({"name": "logits", "parameters": {"classification": (1 << 63) - 1}})
    assert len(json.loads(most[2])["outputs"][0]["data"]) == 3
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        refused(asked(**{name: 1}), 501, name)
    for parameters in ({"priority": -1}, {"priority": 1 << 64}, {"binary_data_output": 1}):
        refused(asked(**parameters), 400)
    answer = asked(triton_enable_empty_final_response=True, model_name="texts", model_version="9", tenant="other")
    assert (answer[0], json.loads(answer[2])["model_name"]) == (200, "linear"), "a parameter is no control field"


def test_thousands_of_classes_are_refused(sealed: Seal) -> None:
    """They are texts, which Python writes one by one."""
    rows = 1 << 15
    about = {"name": "input", "shape": [rows, 4], "datatype": "FP32", "parameters": {"binary_data_size": rows * 16}}
    outputs = [{"name": "logits", "parameters": {"classification": 3}}]
    head = json.dumps({"inputs": [about], "outputs": outputs}).encode()
    with serving(sealed("linear"), queue_rows=rows, choose_seconds=0) as server:
        told = {"Inference-Header-Content-Length": str(len(head))}
        refused(ask(server, "POST", INFER, head + bytes(rows * 16), told), 413, "classes")
