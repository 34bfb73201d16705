"""Every way to attack that is known to us has a test, or a reason why it has none; none may lose it unseen.

A row names attempts of ``attacks.py``, or tests as ``folder/file::test``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .battle import EVERY

TESTS = Path(__file__).parent.parent
REASON = "reason: "
WORKLOADS = "confine/test_workloads::test_workloads_work"
LINK, HOSTILE, LIMITS = "workers/test_link::", "whole/test_hostile::", "whole/test_limits::"

#: What code does to the machine.
MACHINE: dict[str, tuple[str, ...]] = {
    "read a secret of the user": (
        "read_a_secret",
        "read_etc_passwd",
        "list_the_home_folder",
        "climb_out_of_the_workspace",
    ),
    "metadata": ("learn_that_a_file_exists_and_its_size",),
    "write or drop files outside": (
        *("append_to_a_start_up_file", "create_beside_the_workspace", "truncate_a_file", "truncate_by_opening_to_read"),
        *("delete_a_file", "move_a_file_into_the_workspace", "write_into_the_packages", "write_into_its_own_program"),
        "open_with_no_access_mode",
    ),
    "modes, times, attributes": (
        *("change_a_mode", "change_a_mode_through_a_readable_descriptor", "change_a_mode_through_proc"),
        *("change_a_time", "set_an_extended_attribute"),
    ),
    "take all rights from the home folder": (
        "reason: the call of change_a_mode with another path; where it succeeds, all after it would fail for it",
    ),
    "links": ("hard_link_a_secret_into_the_workspace", "read_through_a_symlink_in_the_workspace"),
    "special files": (
        *("make_a_named_pipe_for_the_host_to_block_on", "make_a_socket_file", "open_a_device", "open_by_handle"),
        *("lease_a_file_so_that_the_host_waits", "watch_a_folder_for_names"),
    ),
    "places that all share": ("leave_a_file_in_shared_memory", "leave_a_file_in_tmp"),
    "through the host's part of proc": (
        *("go_through_the_host_s_root", "list_the_host_s_folder", "open_the_host_s_descriptors"),
        *("read_the_host_s_environment", "find_the_secret_in_any_environment", "read_the_host_s_command_line"),
        *("read_the_host_s_memory_map", "write_the_host_s_memory"),
    ),
    "what was left lying about": ("find_the_secret_in_the_environment", "find_a_stray_descriptor"),
    "the memory of the host": ("read_the_host_with_process_vm_readv", "trace_the_host", "compare_with_the_host"),
    "descriptors and namespaces of the host": ("take_a_descriptor_from_the_host", "join_the_host_s_namespaces"),
    "signals": (
        *("signal_the_host", "signal_everybody", "signal_its_group", "kill_a_sibling"),
        "signal_the_host_through_a_descriptor",
    ),
    "limits and priorities of the host": (
        *("change_the_host_s_limits", "slow_the_host_down", "pin_the_host_to_a_processor"),
        *("change_the_host_s_scheduling", "change_the_host_s_disk_priority", "raise_a_limit"),
    ),
    "slow down everything of the user": (
        "reason: the call of slow_the_host_down for all of the user's; it would harm whoever runs the tests",
    ),
    "outlive the host": ("outlive_the_host", "leave_a_process_behind", "leave_a_process_behind_by_the_c_library"),
    "internet": (
        *("connect_to_a_tcp_port", "connect_by_tcp_fast_open", "connect_by_multipath_tcp", "send_a_datagram"),
        *("listen_on_a_port", "read_the_table_of_connections"),
    ),
    "Unix sockets": (
        *("connect_to_a_unix_socket", "connect_to_an_abstract_unix_socket", "aim_a_datagram_pair_at_a_named_socket"),
    ),
    "other families": ("open_a_netlink_socket", "open_a_vsock", "open_a_packet_socket", "use_the_kernel_s_ciphers"),
    "namespaces and mounts": (
        *("make_a_user_namespace", "make_a_user_namespace_with_clone3", "mount_a_file_system", "change_the_root"),
    ),
    "mount in a user namespace of one's own": ("make_a_user_namespace", "mount_a_file_system"),
    "strange parts of the kernel": (
        *("load_a_bpf_program", "open_a_performance_event", "add_a_key", "open_a_userfaultfd", "set_up_io_uring"),
        *("change_the_personality", "watch_with_fanotify", "call_what_is_not_known_yet", "read_the_kernel_s_log"),
        *("change_the_host_name", "type_into_the_terminal"),
        "confine/test_policy::test_the_filter_answers_each_call_as_its_group_says",
    ),
    "memory that no limit counts": (
        *("make_a_file_in_memory", "make_system_v_shared_memory", "make_a_message_queue"),
        *("take_more_shared_memory_than_allowed", "confine/test_policy::test_the_filter_looks_at_arguments"),
    ),
    "run programs": ("fork", "run_a_program", "run_a_program_of_one_s_own"),
    "run a program that has rights of its own": (
        "run_a_program",
        "confine/test_apply::test_strict_reports_every_layer",
    ),
    "another instruction set": ("call_through_32_bit_interrupts", "call_through_x32"),
    "bombs of processes and threads": ("start_a_hundred_processes", "start_a_thousand_threads"),
    "memory": ("take_more_memory_than_allowed",),
    "descriptors, and pipes full of memory": ("open_a_thousand_files",),
    "disk": ("write_one_huge_file", "write_many_files"),
    "processor": (
        "burn_processor_time",
        "confine/test_apply::test_cpu_limit_names_itself_by_its_signal",
        f"{HOSTILE}test_whoever_keeps_the_interpreter_to_itself_is_ended_in_time",
    ),
    "crash": ("confine/test_workloads::test_a_fault_ends_the_guest_alone",),
    "what must work all the while": (
        WORKLOADS,
        "confine/test_attacks::test_the_guest_that_attacked_still_worked",
        "confine/test_workloads::test_what_the_core_cannot_give_says_so",
    ),
}

#: What a guest does to its worker, by number.
PROTOCOL: dict[int, tuple[str, ...]] = {
    1: (f"{HOSTILE}test_a_broken_protocol_ends_that_execution_only", f"{LINK}test_what_no_guest_says_ends_it"),
    2: (f"{LINK}test_what_no_guest_says_ends_it",),
    3: (f"{LINK}test_a_frame_has_its_time",),
    4: (f"{LINK}test_a_frame_has_its_time",),
    5: (f"{LINK}test_a_flood_of_frames_ends_whoever_makes_it", f"{LINK}test_others_have_their_turn_beside_a_flood"),
    6: (
        f"{HOSTILE}test_what_was_never_asked_cannot_be_said",
        f"{HOSTILE}test_a_forged_call_gets_no_more_than_is_granted",
    ),
    7: (f"{HOSTILE}test_a_forged_result_is_taken_once_and_its_guest_does_not_go_on",),
    8: (f"{HOSTILE}test_what_was_never_asked_cannot_be_said",),
    9: (f"{LINK}test_odd_arguments_are_refused_or_data_and_nothing_else_happens",),
    10: ("checkpoint/test_host::test_the_host_never_unpickles", "engine/test_durable::test_a_rejection_is_plain_data"),
    11: ("guest/test_running::test_a_hostile_repr_is_contained",),
    12: (
        "reason: no capability of the standard set takes a path of the host",
        "capabilities/test_http::test_what_no_request_can_ask_for",
        "checkpoint/test_workspace::test_a_tree_that_leads_out_of_the_workspace_is_refused",
    ),
    13: (
        "semantics/test_f_faults::test_what_is_not_granted_is_refused_by_the_host_and_not_by_absence",
        "capabilities/test_base::test_arguments_that_do_not_fit",
    ),
    14: (
        "whole/test_open_calls::test_whoever_has_too_many_calls_open_is_refused_more_and_told_the_limit",
        "whole/test_open_calls::test_a_flood_of_calls_is_slowed_and_answered_each",
    ),
    15: ("whole/test_open_calls::test_replies_that_come_while_the_code_writes_hold_up_neither",),
    16: (f"{HOSTILE}test_closing_every_descriptor_ends_that_guest_only",),
    17: (f"{LINK}test_a_frame_that_is_lost_or_comes_twice_ends_it",),
    18: ("pass_a_descriptor_over_the_channel",),
    19: ("semantics/test_c_channel::test_c5_bursts_come_whole_and_caps_are_named",),
    20: (f"{HOSTILE}test_whoever_keeps_the_interpreter_to_itself_is_ended_in_time",),
    21: ("semantics/test_d_stopping::test_d1_what_ignores_a_cancel_is_killed_after_its_grace_and_it_is_said",),
    22: ("guest/test_abuse::test_a_users_signal_handler_and_timer_work", WORKLOADS),
    23: (
        "confine/test_zygote::test_the_way_a_guest_ended_is_told",
        "semantics/test_d_stopping::test_d3_every_way_to_die",
    ),
    24: (
        "reason: a guest may lie about its own result, and about nothing that its worker saw for itself",
        f"{HOSTILE}test_a_forged_result_is_taken_once_and_its_guest_does_not_go_on",
    ),
    25: ("engine/test_journal::test_another_request_under_the_same_path_shows_both_and_the_line",),
    26: ("checkpoint/test_workspace::test_nothing_outside_is_read_while_the_guest_swaps_folders_for_links",),
    27: ("checkpoint/test_workspace::test_what_is_no_ordinary_file_is_named",),
    28: (f"{HOSTILE}test_no_name_or_depth_keeps_a_workspace_from_being_kept_and_removed",),
    29: (
        "write_one_huge_file",
        f"{LIMITS}test_whoever_exceeds_a_limit_is_ended_and_told_which",
        f"{LIMITS}test_what_is_too_much_to_be_kept_ends_it_and_is_not_tried_again",
    ),
    30: ("load_a_library_of_one_s_own", "ask_for_a_socket_by_machine_code_of_one_s_own"),
    31: ("write_into_the_packages",),
    32: (
        "leave_a_file_in_tmp",
        "leave_a_file_in_shared_memory",
        "add_a_key",
        "whole/test_walls::test_nothing_outlives",
    ),
    33: ("read_another_workspace", "write_into_another_workspace", "kill_a_sibling"),
    34: ("confine/test_zygote::test_tenants_and_levels_have_zygotes_of_their_own",),
    35: (f"{HOSTILE}test_whoever_keeps_the_interpreter_to_itself_is_ended_in_time",),
    36: ("look_up_a_name",),
    37: ("reach_the_cloud_s_metadata",),
    38: ("write_its_own_memory_through_proc", "write_into_its_own_program"),
    39: ("type_into_the_terminal",),
    40: ("confine/test_apply::test_canary_refuses_a_guest_whose_layer_does_nothing",),
}

ROWS: dict[str, tuple[str, ...]] = MACHINE | {f"protocol {number}": tests for number, tests in PROTOCOL.items()}


def is_there(name: str) -> bool:
    """Whether an attempt or a test of this name is there, or the beginning of a test's."""
    if "::" not in name:
        return name in EVERY
    file, _, test = name.partition("::")
    path = TESTS / f"{file}.py"
    return path.exists() and re.search(rf"^(async )?def {test}", path.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_tests_or_a_reason(row: str) -> None:
    assert ROWS[row]
    assert [each for each in ROWS[row] if not each.startswith(REASON) and not is_there(each)] == []


def test_every_attempt_is_in_a_row_and_no_number_is_missing() -> None:
    named = {each for tests in ROWS.values() for each in tests}
    assert set(EVERY) - named == set()
    assert list(PROTOCOL) == list(range(1, 41))
