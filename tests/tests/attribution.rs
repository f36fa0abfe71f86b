//! Who really sent it, and who really received it: every case that other tools get wrong, with real processes.
//!
//! Each test traces the whole host while a scenario plays, and holds the trace to what the processes of the scenario
//! say they did: all of it, nothing else between them, every name right.

use anyhow::Result;
use ipctrace_tests::scenarios::{IN_THE_MIDDLE, SCENARIOS, verify, verify_besides, verify_in_the_middle};

macro_rules! cases {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                verify(stringify!($name))
            }
        )*

        #[test]
        fn every_scenario_is_a_test() {
            let tested = [$(stringify!($name)),*];
            for scenario in SCENARIOS.iter().flat_map(|scenarios| scenarios.iter()) {
                assert!(tested.contains(&scenario.name), "{} is not tested", scenario.name);
            }
        }
    };
}

cases! {
    two_readers_share_an_end
    only_what_calls_returned_counts
    large_blocking_writes
    every_call_that_moves_bytes
    socketpair_of_the_parent
    many_connections_of_one_pair
    sockets_by_read_and_write
    connected_by_the_parent
    prefork_server
    the_sender_is_gone
    a_new_program_has_a_new_name
    threads_send_and_receive
    read_before_the_server_accepts
    connections_nobody_accepted
    a_client_reads_before_it_is_accepted
    sendmmsg_and_recvmmsg
    one_sender_many_receivers
    segment_of_three_processes
    children_have_what_their_parent_has
    a_new_program_leaves_the_memory
    memory_by_name
    memory_by_descriptor
    mappings_in_pieces
    a_file_two_have_mapped
    several_writers_of_a_page
    equal_ids_in_two_ipc_namespaces
    one_name_in_two_mount_namespaces
    a_borrowed_address_space
    many_senders_one_receiver
    peeked_and_cut_short
    messages_by_read_and_write
    a_receiver_that_starts_again
    descriptors_that_change
    opened_again_through_proc
    taken_by_pidfd_getfd
    passed_in_several_messages
    memory_of_a_child
    terminal_both_ways_raw
    terminal_with_two_programs
    terminal_read_before_all_arrived
    terminal_of_a_real_program
    terminal_numbers_are_used_again
    terminal_that_echoes_is_used_again
    memory_of_a_process_in_another_pid_namespace
    equal_inodes_on_two_file_systems
    fifo_made_anew
    a_fifo_that_is_opened_again_and_again
    eventfd_of_two_writers
    eventfd_as_semaphore
    eventfd_ping_pong
    eventfd_that_refuses
    eventfd_numbers_are_used_again
    abstract_name_of_any_bytes
    socket_at_a_path
    signal_to_a_thread
    signal_to_a_group
    signal_to_all
    other_pid_namespace
    other_mount_namespace
    a_pid_that_is_used_again
    ctrl_c_at_a_terminal
    signals_of_the_kernel
    signal_taken_by_sigwait
    real_time_signals_queue_up
    rings_write_and_a_call_reads
    calls_write_and_a_ring_reads
    rings_of_registered_files
    a_hundred_requests_at_once
    sockets_through_rings
    tcp_through_rings
    udp_through_rings
    messages_through_rings
    one_request_receives_many_times
    requests_that_wait_and_that_are_cancelled
    sends_without_completions
    splice_through_a_ring
    posix_mq_by_priority
    posix_mq_fast
    sysv_msg_fast
    a_message_that_cannot_be_copied_is_gone
    posix_mq_two_receivers
    posix_mq_full_and_empty
    posix_mq_notifies
    posix_mq_namespaces
    posix_mq_unlinked_and_made_again
    sysv_msg_by_type
    sysv_msg_two_receivers
    sysv_msg_cut_short
    sysv_msg_removed
    sysv_msg_id_used_again
    sysv_msg_namespaces
    semaphores_between_three
    semaphore_waits_that_fail
    semaphore_set_by_semctl
    semaphore_undone_by_the_dead
    semaphores_of_two_namespaces
    futex_wakes_two_waiters
    futex_waits_that_fail
    futexes_private_to_a_process
    futex_waiters_moved_to_another
    futex_one_of_many
    futex_of_a_dead_owner
    futex_in_files_and_memory
    futex_at_an_address_that_is_mapped_anew
    mutex_with_priority_inheritance
    semaphore_of_posix_in_shared_memory
    mutex_and_condition_of_two_processes
    tcp_prefork_server
    tcp_connected_by_the_parent
    tcp_many_connections_of_one_pair
    tcp_two_writers_on_one_connection
    tcp_by_every_call
    tcp_accepted_socket_passed_on
    tcp_while_others_are_busy
    tcp_between_namespaces
    tcp_equal_addresses_in_two_namespaces
    udp_connected_and_by_address
    udp_sendmmsg_and_recvmmsg
    udp_by_read_and_write
    udp_peeked_and_cut_short
    udp_many_senders_one_receiver
    udp_two_senders_share_a_socket
    udp_dropped_ones_are_unread
    udp_while_others_are_busy
    udp_between_namespaces
    udp_over_a_bridge_between_namespaces
    udp_multicast_and_broadcast_in_namespaces
}

#[test]
fn queues_with_messages_from_before_the_start() -> Result<()> {
    let scenarios = IN_THE_MIDDLE.iter().flat_map(|scenarios| scenarios.iter());
    scenarios.map(|scenario| scenario.name).try_for_each(verify_in_the_middle)
}

#[test]
fn a_terminals_signals_name_the_terminal() -> Result<()> {
    verify_besides("a_terminals_signals_name_the_terminal")
}
