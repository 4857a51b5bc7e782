//! Channelstream's API, as its callers and its clients see it: on one instance, and on three that are to be as one.
//!
//! A scenario is a function of a [`Site`]. Those of a group share one, at the same time, and so need names of their own. Each
//! group is run on one instance and on three, where chance sends every call, poll and socket to any of them; when one
//! fails, `TEST_SEED` repeats what chance did.

mod access;
mod admin;
mod connections;
mod expiry;
mod instances;
mod messages;
mod outage;
mod polling;
mod presence;
mod rates;
mod settings;
mod state;
mod validation;
mod websocket;

use futures::future::BoxFuture;

use crate::support::channelstream::Site;

type Scenario = (&'static str, fn(Site) -> BoxFuture<'static, ()>);

/// Runs all at the same time, and says which have failed.
async fn run(site: Site, scenarios: &[Scenario]) {
    let running: Vec<_> = scenarios.iter().map(|(name, run)| (name, tokio::spawn(run(site.branch(name))))).collect();
    let mut failed = Vec::new();
    for (name, scenario) in running {
        if let Err(error) = scenario.await {
            let panic = error.into_panic();
            let text = panic.downcast_ref::<String>().map(String::as_str);
            failed.push(format!("{name}: {}", text.or(panic.downcast_ref().copied()).unwrap_or("?")));
        }
    }
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), scenarios.len(), failed.join("\n"));
}

/// Two tests of each group: on one instance, and on three.
macro_rules! everywhere {
    ($($group:ident { $($file:ident: [$($scenario:ident),* $(,)?]),* $(,)? })*) => { $(
        mod $group {
            use super::*;

            const SCENARIOS: &[Scenario] = &[$($(
                (stringify!($scenario), |site| Box::pin(async move { $file::$scenario(&site).await })),
            )*)*];

            #[tokio::test(flavor = "multi_thread")]
            async fn on_one_instance() {
                run(Site::one(&[]).await, SCENARIOS).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_three_instances() {
                run(Site::three(&[]).await, SCENARIOS).await;
            }
        }
    )* };
}

everywhere! {
    calls {
        validation: [
            what_is_wrong_is_said_of_each_field,
            values_are_taken_in_all_their_forms,
            bodies_that_are_not_json_are_refused,
            nothing_is_done_of_a_call_with_one_error,
            unknown_keys_are_ignored,
        ],
        access: [
            a_signature_counts_for_a_minute_wherever_it_stands,
            a_signature_that_is_wrong_is_refused_before_anything_is_read,
            who_may_not_call_is_told_so_whatever_the_signature,
            unknown_routes_and_methods_are_not_found,
            errors_are_told_as_the_caller_accepts,
            pages_of_other_hosts_may_use_the_answers,
            paths_and_links_are_under_the_prefix_of_the_proxy,
        ],
        connections: [
            connecting_tells_all_about_the_channels,
            a_connection_id_is_used_once_or_by_the_same_user,
            subscribing_adds_channels,
            unsubscribing_removes_them,
            info_tells_what_is_asked_for,
            channel_config_creates_and_resets,
            settings_count_for_new_channels_only,
            disconnecting_is_at_once,
            many_at_once_are_each_carried_out,
        ],
        state: [
            state_is_merged_and_told,
            fresh_state_is_for_new_users,
            public_keys_are_replaced,
            members_hear_of_changes_of_state,
            equal_values_are_no_change,
        ],
        messages: [
            the_reply_has_the_defaults_filled_in,
            a_message_reaches_whom_it_is_for,
            messages_come_in_the_order_they_were_posted,
            history_keeps_the_newest,
            history_is_what_was_asked_to_be_kept,
            a_message_is_edited_in_the_history_and_for_the_members,
            a_message_is_deleted_from_the_history_and_for_the_members,
            private_messages_are_edited_and_deleted,
            large_messages_and_odd_names_come_through,
        ],
        presence: [
            coming_and_going_is_told_to_the_others,
            lists_of_users_are_told_if_they_are_wanted,
            only_the_first_and_the_last_connection_count,
        ],
    }
    clients {
        websocket: [
            a_socket_of_an_unknown_connection_is_closed,
            whatever_a_client_sends_is_ignored,
            an_attached_socket_is_kept_alive_by_heartbeats,
            a_socket_attached_late_gets_heartbeats_too,
            a_newer_socket_takes_over,
            who_closes_has_parted,
            who_closes_before_it_is_served_has_parted,
            who_is_cut_off_has_parted,
            disconnecting_closes_the_socket,
            what_was_missed_comes_first,
            what_was_edited_meanwhile_comes_edited,
            no_more_is_kept_than_the_newest,
            own_sockets_are_beside_it,
        ],
        polling: [
            an_idle_poll_ends_empty,
            a_poll_ends_soon_after_something_came,
            a_poll_brings_what_was_missed_and_nothing_twice,
            an_older_poll_ends_empty,
            a_poll_wraps_its_answer_for_a_callback,
            polls_of_nobody_are_refused,
            a_poll_beside_a_socket_brings_nothing,
            a_poll_ends_when_its_connection_does,
            a_chat_over_polls_loses_nothing,
            polls_that_are_given_up_lose_nothing,
            many_polls_lose_nothing_of_a_busy_channel,
        ],
        expiry: [
            who_never_attaches_is_collected,
            connections_without_channels_are_collected,
            other_calls_keep_nobody_alive,
            polls_keep_a_connection_alive,
            a_ping_is_answered,
            users_and_channels_are_remembered,
        ],
        admin: [
            administrators_sign_in,
            pages_are_for_administrators,
        ],
    }
    statistics {
        admin: [the_numbers_are_right],
    }
}
