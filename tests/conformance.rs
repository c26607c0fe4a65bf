//! What every engine of the log contract has to do, written once.
//!
//! No case assumes that offsets are dense, that anything is visible before it was acknowledged,
//! or that anything is fast: the memory engine runs the suite a second time with holes, delays
//! and batches put together anew, the embedded one with every read going to its store. Kafka is real:
//! one broker for all cases, each with a prefix of its own. To add an engine, add a fixture and a
//! line to `engines!`.

#[path = "conformance/append.rs"]
mod append;
#[path = "conformance/commit.rs"]
mod commit;
#[path = "conformance/fence.rs"]
mod fence;
#[path = "conformance/fixture.rs"]
mod fixture;
#[path = "conformance/group.rs"]
mod group;
#[path = "support/kafka.rs"]
mod kafka_cluster;
#[path = "conformance/read.rs"]
mod read;
#[path = "conformance/shape.rs"]
mod shape;
#[path = "conformance/stress.rs"]
mod stress;

macro_rules! engines {
    ($($module:ident: $($case:ident)*;)*) => {
        mod memory {
            $($(#[tokio::test(start_paused = true)]
            async fn $case() {
                crate::$module::$case(crate::fixture::memory()).await;
            })*)*
        }

        mod memory_with_holes {
            $($(#[tokio::test(start_paused = true)]
            async fn $case() {
                crate::$module::$case(crate::fixture::memory_with_holes()).await;
            })*)*
        }

        mod embedded {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$module::$case(crate::fixture::embedded()).await;
            })*)*
        }

        mod embedded_without_memory {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$module::$case(crate::fixture::embedded_without_memory()).await;
            })*)*
        }

        mod kafka {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$module::$case(crate::fixture::kafka()).await;
            })*)*
        }
    };
}

engines! {
    append:
        offsets_go_up
        pipelined_appends_keep_their_order
        a_batch_keeps_its_order
        the_acknowledged_is_there
        an_empty_batch_takes_no_place
        absent_is_not_empty
        headers_survive
        big_records_survive
        what_does_not_exist_is_rejected
        times_do_not_go_back
        partitions_are_apart
        an_acknowledgement_may_be_dropped
        each_appender_keeps_its_order
        what_was_read_can_be_appended;
    read:
        every_position_can_be_read_from
        a_waiting_reader_wakes
        a_reader_waits_at_the_end_of_nothing
        beyond_the_end_there_are_no_records
        a_reader_may_be_interrupted
        little_at_a_time
        positions_say_what_was_handed_out
        readers_are_independent
        both_visibilities_come_to_the_same
        bounds_follow
        the_removed_is_lost
        what_is_left_can_be_read
        a_reader_follows_for_long
        who_rests_goes_on_where_it_was;
    commit:
        a_commit_is_read_everywhere
        all_or_nothing
        appends_to_one_partition_keep_their_order
        commits_follow_each_other
        commits_and_appends_mix
        a_large_commit
        nothing_to_commit
        the_claim_itself_is_committed;
    fence:
        a_new_claim_fences_the_old_writer
        whoever_takes_over_fences
        the_fenced_write_nothing
        the_fenced_stay_fenced
        an_abandoned_commit_is_decided_by_the_next_claim
        claims_of_other_partitions_do_not_fence
        claims_of_other_groups_do_not_fence
        what_is_not_assigned_cannot_be_claimed
        a_claim_of_the_past_is_not_committed
        the_frozen_are_fenced;
    group:
        alone_with_everything
        two_share
        a_newcomer_waits_for_the_barrier
        patience_with_a_barrier_ends
        a_crash_is_noticed
        who_leaves_is_followed_at_once
        who_stays_keeps_what_it_has
        groups_are_independent
        a_spare_member_steps_in
        several_topics_are_shared_out
        events_survive_interruption
        the_silent_are_replaced
        positions_are_stored
        positions_belong_to_the_group
        positions_of_others_are_refused;
    shape:
        topics_have_the_shape_they_were_given
        ensuring_again_changes_nothing
        another_number_of_partitions_is_refused
        many_topics_at_once
        the_last_record_of_a_key_stays;
    stress:
        writers_and_readers_at_once;
}
