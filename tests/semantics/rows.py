"""What running code means, row by row, and the tests that hold each row: none can lose its test unseen.

A test is named by its function; ``test_rows.py`` sees that each exists, and that every row's own tests are here.
"""

from __future__ import annotations

__all__ = ["LIMITS", "ROWS"]

#: By row: what it says, and its tests. The first of them goes through a client and a worker.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "A1": (
        "five modes, told without running; what does not compile changes nothing",
        (
            "test_a1_the_mode_is_in_the_result_the_info_and_the_tree",
            "test_a1_each_mode_through_a_session",
            "test_a1_an_await_is_taken_wherever_it_stands",
            "test_a1_what_does_not_compile_in_the_guest_changes_nothing",
            "test_a1_an_await_of_the_module_is_found_wherever_it_is",
            "test_a1_an_await_inside_a_function_is_not_the_modules",
            "test_a1_the_router_agrees_with_the_compiler",
            "test_a1_what_does_not_compile_is_unknown",
            "test_a1_a_tree_of_any_depth_is_walked",
        ),
    ),
    "A2": ("await at the top; future statements hold on", ("test_a2_await_at_the_top_and_future_statements",)),
    "A3": (
        "where code runs: no loop without await, one loop and one context for all, tasks only while it awaits, threads",
        (
            "test_a3_statements_without_await_run_with_no_loop",
            "test_a3_a_loop_of_the_codes_own_does_not_take_the_place_of_the_sessions",
            "test_a3_background_tasks_advance_only_while_the_code_awaits",
            "test_a3_what_a_task_of_an_earlier_execution_waits_for_is_not_mixed_up_with_later_ones",
            "test_a3_a_sleep_without_an_end_is_one",
            "test_a3_all_statements_share_one_context",
            "test_a3_user_threads_run_between_executions_and_are_named",
            "test_a3_blocking_calls_are_named_through_aliases_and_rebinding",
        ),
    ),
    "A4": (
        "compiled code is kept, bounded, counted; failures are not",
        (
            "test_a4_what_was_compiled_is_kept_from_one_execution_to_the_next_and_bounded",
            "test_a4_programs_are_kept_by_source_and_flags_whatever_their_name",
            "test_a4_what_the_compiler_warned_of_is_compiled_and_warned_of_again",
        ),
    ),
    "A5": (
        "tracebacks: the user's frames, carets, chains and groups, where it was",
        (
            "test_a5_tracebacks_show_the_users_frames_with_carets",
            "test_a5_chained_and_grouped_exceptions_come_whole",
            "test_a5_an_exceptions_notes_end_with_where_it_was",
            "test_a5_sources_are_bounded_and_counted",
        ),
    ),
    "A6": (
        "each statement once; the last expression is the result; a hostile repr is contained",
        ("test_a6_each_statement_once_and_falsy_results_are_results", "test_a6_a_hostile_repr_is_contained"),
    ),
    "A7": ("no magics, no IPython", ("test_a7_no_magics_and_no_ipython",)),
    "B1": (
        "one dict for life, and everything a module does in it",
        ("test_b1_functions_see_later_rebindings", "test_b1_everything_a_module_does"),
    ),
    "B2": (
        "protected names, through clear and restore",
        ("test_b2_the_internals_exist_and_survive", "test_b3_the_internals_are_kept"),
    ),
    "B3": (
        "variables from outside, by strategy, in place",
        (
            "test_b3_variables_are_set_by_strategy_and_what_changed_is_returned",
            "test_b3_smart_compares_arrays_without_raising",
            "test_b3_it_is_an_execution_that_replays_and_survives",
            "test_b3_what_is_no_name_is_refused_at_once",
            "test_b3_the_internals_are_kept",
        ),
    ),
    "B4": (
        "histories move for values only, and survive a restore",
        ("test_b4_histories_move_for_values_and_survive_a_restore", "test_b4_history_length_is_a_setting"),
    ),
    "B5": (
        "a failure keeps what ran before, unless atomic",
        (
            "test_b5_what_ran_before_an_error_stays",
            "test_b5_an_atomic_execution_that_fails_changes_nothing",
            "test_b5_atomic_is_refused_where_going_back_would_lose_something",
        ),
    ),
    "B6": ("threads are as safe as the GIL makes them", ("test_b6_threads_are_as_safe_as_the_gil_makes_them",)),
    "B7": ("compiling by statement does not show", ("test_b7_statement_by_statement_does_not_show",)),
    "B8": (
        "no faked pid; a file is run as by python; files come in bounded and named",
        (
            "test_b8_a_file_is_run_as_python_file",
            "test_b8_the_pid_is_the_processs_own",
            "test_b8_files_come_in_by_name_and_bounded",
        ),
    ),
    "C1": (
        "typed messages, signs of life",
        (
            "test_c1_one_that_says_nothing_is_told_apart_from_one_that_computes",
            "test_c1_what_a_guest_uses_is_measured_from_outside",
            "test_c1_what_is_malformed_ends_its_guest_and_says_why",
            "test_c1_the_guest_takes_no_message_that_is_not_in_its_table",
            "test_c1_every_message_of_the_documentation_is_in_a_table",
            "test_c1_what_the_host_sends_is_a_model_and_the_guests_table_is_the_same",
            "test_c1_only_what_is_set_is_sent_and_nothing_else_can_be",
            "test_c1_a_guest_of_another_protocol_is_refused_with_both_versions",
            "test_c1_a_write_that_is_no_text_is_an_error_of_the_channel",
            "test_c1_what_a_guest_is_told_of_its_session_is_checked",
        ),
    ),
    "C2": (
        "frames are capped before they are kept; more goes in chunks",
        ("test_c2_values_of_any_size_are_stored_by_reference", "test_what_no_guest_says_ends_it"),
    ),
    "C3": (
        "nothing reaches the channel; half a gigabyte is no hang",
        (
            "test_c3_the_channel_cannot_be_corrupted",
            "test_c3_half_a_gigabyte_is_neither_refused_nor_a_hang",
            "test_c3_a_large_result_does_not_hold_up_the_loop_of_the_worker",
            "test_c3_a_value_beyond_its_limit_is_named",
            "test_c3_a_large_value_is_looked_through_before_it_is_stored",
            "test_c3_what_only_looks_like_a_reference_is_a_value",
            "test_c3_where_a_value_is_cut_to_be_looked_through_does_not_matter",
            "test_c3_others_have_their_turn_while_a_large_value_is_looked_through",
            "test_c3_a_stream_is_handed_on_in_the_memory_that_it_came_in",
        ),
    ),
    "C4": (
        "a flood slows its printer, not the host",
        (
            "test_c4_a_flood_of_prints_slows_the_printer_and_not_the_host",
            "test_a_flood_that_nobody_reads_stops_its_printer_and_takes_no_memory",
        ),
    ),
    "C5": (
        "all output before the result, in order, live, whole",
        (
            "test_c5_everything_printed_comes_before_the_result_in_order",
            "test_c5_output_is_live_while_the_code_runs",
            "test_c5_bursts_come_whole_and_caps_are_named",
        ),
    ),
    "D1": (
        "cancel stops awaits and loops, runs finally, kills what ignores it, says which",
        (
            "test_d1_a_cancel_stops_it_and_says_that_it_stopped_by_itself",
            "test_d1_what_ignores_a_cancel_is_killed_after_its_grace_and_it_is_said",
            "test_d1_a_cancel_leaves_background_tasks_alone",
            "test_d1_what_catches_a_cancel_gets_to_the_end_of_its_statement_and_no_further",
            "test_d1_a_cancel_before_the_code_runs_is_not_lost",
            "test_d1_what_waits_is_stopped_where_it_waits",
            "test_d1_nobody_to_stop_it_is_said_and_the_request_stands",
            "test_d1_a_cancel_that_was_asked_for_while_no_worker_was_there_comes_first",
            "test_d1_a_store_that_does_not_answer_is_not_nobody_who_stops_it",
        ),
    ),
    "D2": (
        "a timeout stops the work, not the background",
        (
            "test_d2_a_timeout_stops_the_work_and_nothing_leaks",
            "test_d2_a_timeout_leaves_background_tasks_alone",
            "test_d2_the_sessions_bound_cannot_be_raised_and_waiting_does_not_count",
        ),
    ),
    "D3": (
        "every way to die is typed, at once, without zombies",
        (
            "test_d3_every_way_to_die_is_typed",
            "test_d3_a_zombie_would_be_seen",
            "test_d3_limits_are_named_where_they_bite",
        ),
    ),
    "D4": (
        "one execution at a time",
        ("test_d4_one_at_a_time_by_the_callers_choice", "test_two_quick_submissions_do_not_both_run"),
    ),
    "D5": (
        "a coroutine never awaited is said; one that is kept is not",
        ("test_d5_a_coroutine_never_awaited_is_said_with_its_line", "test_nothing_is_kept_of_tasks_that_are_gone"),
    ),
    "D6": ("loops belong to who made them", ("test_d6_loops_belong_to_who_made_them",)),
    "E1": (
        "input many times, anywhere, prompt first, for days; its end is typed",
        (
            "test_e1_input_works_many_times_everywhere",
            "test_e1_input_that_nobody_will_answer_is_the_end_of_input",
            "test_what_waited_for_weeks_goes_on",
        ),
    ),
    "E2": (
        "calls from any code; one never awaited is said",
        ("test_e2_calls_from_sync_code_threads_and_coroutines", "test_e2_a_call_never_awaited_is_said_with_its_line"),
    ),
    "E3": (
        "rich results as bundles, bounded, by reference",
        (
            "test_e3_a_rich_value_comes_as_a_bundle",
            "test_e3_displays_come_among_the_output_once_and_in_order",
            "test_e3_a_large_display_is_stored_by_reference_and_replayed_once",
            "test_e3_a_hostile_display_is_contained_and_named",
            "test_e3_the_budget_of_displays_is_named",
            "test_e3_figures_of_matplotlib_come_out",
        ),
    ),
    "E4": (
        "progress bars behave",
        ("test_e4_tqdm_shows_its_bar_and_its_end", "test_e4_progress_with_carriage_returns_comes_intact"),
    ),
    "F": (
        "faults of earlier attempts, by name",
        (
            "test_the_trailing_expression_is_evaluated_once",
            "test_the_second_input_is_answered_as_the_first",
            "test_a_raw_write_does_not_wedge_the_session",
            "test_a_result_over_the_frames_cap_comes",
            "test_a_crash_is_noticed_at_once_and_not_at_a_timeout",
            "test_after_a_timeout_the_session_is_free_and_the_code_is_gone",
            "test_two_quick_submissions_do_not_both_run",
            "test_a_cancel_does_not_wait_out_its_grace",
            "test_a_restore_keeps_functions_classes_and_instances_or_names_what_it_lost",
            "test_falsy_results_do_not_vanish",
            "test_what_is_not_granted_is_refused_by_the_host_and_not_by_absence",
        ),
    ),
}

#: By limit of a session: the test in which it bites, set through a client.
LIMITS = {
    "memory_bytes": "test_d3_limits_are_named_where_they_bite",
    "threads": "test_whoever_exceeds_a_limit_is_ended_and_told_which",
    "wall_seconds": "test_d2_the_sessions_bound_cannot_be_raised_and_waiting_does_not_count",
    "cpu_seconds": "test_whoever_exceeds_a_limit_is_ended_and_told_which",
    "output_characters": "test_c5_bursts_come_whole_and_caps_are_named",
    "open_calls": "test_whoever_has_too_many_calls_open_is_refused_more_and_told_the_limit",
    "grace_seconds": "test_d1_what_ignores_a_cancel_is_killed_after_its_grace_and_it_is_said",
    "display_bytes": "test_e3_the_budget_of_displays_is_named",
    "inline_bytes": "test_what_a_value_may_take_of_its_record_is_a_setting",
    "result_bytes": "test_c3_a_value_beyond_its_limit_is_named",
    "repr_characters": "test_how_long_a_repr_may_be_is_a_setting",
    "repr_seconds": "test_how_long_a_repr_may_take_is_a_setting",
    "history": "test_b4_history_length_is_a_setting",
    "file_bytes": "test_d3_limits_are_named_where_they_bite",
    "files": "test_whoever_exceeds_a_limit_is_ended_and_told_which",
    "workspace_bytes": "test_whoever_exceeds_a_limit_is_ended_and_told_which",
    "checkpoint_seconds": "test_a_forged_result_is_taken_once_and_its_guest_does_not_go_on",
    "namespace_bytes": "test_what_is_too_much_to_keep_ends_its_execution_by_name",
    "verify_every": "test_what_changes_behind_every_name_is_kept_where_everything_is_looked_at",
}
