//! Runs the suite on each kind of store.

use super::worlds::{Cluster, World};
use super::{accounts, clients, grants, holdings, keys, pending, principals, sole_clients};

macro_rules! conformance {
    ($($module:ident::$case:ident,)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                super::$module::$case(&super::World::embedded()).await;
            })*
        }

        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                if let Some(world) = super::World::redis().await {
                    super::$module::$case(&world).await;
                }
            })*
        }

        /// The cases for a cluster. Each future is boxed, because together they would overflow the stack of a
        /// test.
        mod cluster {
            $(pub(super) fn $case(url: &str) -> futures_util::future::LocalBoxFuture<'_, ()> {
                Box::pin(async move { super::$module::$case(&super::World::at(url).await).await })
            })*
        }

        /// All cases run in one test, because creating a cluster takes seconds.
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn redis_cluster() {
            let Some(servers) = Cluster::start() else { return };
            $(
                println!("{}", stringify!($case));
                self::cluster::$case(&servers.url()).await;
            )*
            assert_eq!(servers.filled(), [true; 3], "every node has some of the keys");
        }
    };
}

conformance! {
    clients::a_clock_that_is_behind_shortens_nothing_although_the_store_knows_no_time,
    clients::a_registered_client_is_there_until_its_time_is_over,
    clients::a044_the_same_public_client_registers_once,
    clients::another_client_under_the_first_identifier_makes_the_second_count,
    clients::a_client_is_found_under_a_later_identifier_although_an_earlier_one_is_free,
    clients::a044_a_client_that_was_changed_keeps_nobody_from_sharing_what_it_was,
    clients::a045_the_oldest_that_nobody_used_makes_room,
    clients::a045_clients_that_nobody_used_have_a_ceiling_of_their_own,
    clients::a045_a_client_that_is_kept_makes_no_room,
    sole_clients::a045_one_account_has_so_many_clients_and_its_least_used_makes_room,
    sole_clients::a045_a_client_that_several_use_makes_room_for_none,
    sole_clients::a045_two_accounts_that_use_the_same_clients_have_no_more_than_their_ceilings,
    sole_clients::a045_accounts_that_work_together_have_no_more_clients_than_their_ceilings,
    sole_clients::a045_a_disabled_client_makes_no_room_and_does_not_expire,
    sole_clients::a045_who_gives_up_a_client_takes_it_from_nobody_else,
    sole_clients::a045_a_client_that_somebody_registers_again_makes_no_room_while_they_sign_in,
    sole_clients::a045_clients_used_at_once_stay_below_the_ceiling_of_their_account,
    clients::a045_a_client_that_was_registered_twice_and_is_used_makes_no_room,
    clients::a045_a_used_client_is_never_evicted_whatever_comes_at_once,
    clients::the_holder_of_the_management_token_updates_a_client,
    clients::a047_a_client_that_two_have_registered_is_deleted_by_neither,
    clients::a_client_that_is_switched_off_is_not_used,
    clients::deletion_ends_grants_and_coming_back_does_not_revive_them,
    clients::a_use_keeps_a_client_and_comes_once_an_hour,
    clients::a_client_of_a_document_is_remembered_from_its_first_use,
    clients::clients_are_listed_in_pages,
    clients::sweeping_removes_clients_whose_time_is_over,
    accounts::an_account_is_found_by_name_and_by_subject,
    accounts::of_many_with_one_name_one_gets_it,
    accounts::a_password_is_replaced_by_who_knows_the_old_one,
    accounts::a_login_lasts_until_its_end_or_the_logout,
    accounts::a_name_comes_once_until_its_time_is_over,
    accounts::a_store_that_works_answers,
    keys::replicas_that_start_at_once_agree_on_a_signing_key,
    keys::of_many_rotations_at_once_one_is_done,
    keys::a_revoked_key_is_gone_for_every_replica,
    grants::an_approval_makes_one_code,
    grants::an_approval_is_allowed_or_denied_and_never_both,
    grants::a_code_lives_for_its_time_and_is_looked_at_without_being_used,
    grants::a027_of_parallel_redemptions_one_succeeds,
    grants::a026_a_replayed_code_ends_the_grant_that_it_made,
    grants::a_code_of_a_client_that_is_gone_makes_no_grant,
    grants::a_grant_lives_until_its_end_or_its_revocation,
    grants::a_refresh_token_rotates_and_a_lost_answer_is_repeated,
    grants::a031_a_refresh_token_that_is_used_up_ends_the_grant,
    grants::a031_every_token_of_a_long_line_is_known_when_it_comes_again,
    grants::a031_a_token_that_only_names_a_grant_is_unknown_and_ends_nothing,
    grants::a032_parallel_refreshes_leave_one_live_branch,
    grants::a066_a_revoked_grant_stays_revoked_whatever_comes_at_once,
    holdings::a100_codes_that_nobody_redeems_have_a_ceiling_and_the_oldest_goes,
    holdings::a026_a_replay_is_noticed_although_many_codes_were_made_since,
    holdings::a100_logins_of_one_account_have_a_ceiling_and_the_oldest_goes,
    holdings::a100_grants_of_one_account_have_a_ceiling_and_the_least_used_goes,
    holdings::a100_what_one_account_makes_at_once_stays_within_its_ceilings,
    holdings::a100_what_was_made_while_the_clock_was_ahead_goes_before_what_is_made_later,
    holdings::a100_a_clock_that_is_ahead_makes_no_room_for_more,
    holdings::a100_consents_of_one_account_have_a_ceiling_and_the_oldest_goes,
    holdings::a100_what_was_revoked_signed_out_or_forgotten_does_not_count,
    holdings::a100_a_redeemed_code_leaves_its_place_to_one_that_waits,
    holdings::a100_what_has_expired_does_not_count,
    pending::a_device_waits_for_a_person_and_gets_one_grant,
    pending::a043_a_device_code_that_comes_again_ends_its_grant,
    pending::a043_of_parallel_redemptions_of_a_device_code_one_succeeds,
    pending::a_device_that_asks_too_fast_is_slowed_down_by_every_replica,
    pending::a_pushed_request_is_there_until_it_is_answered_or_over,
    pending::a044_two_accounts_that_fill_a_room_displace_their_own_requests_only,
    pending::a044_a_full_room_of_those_who_have_one_place_each_takes_no_more,
    pending::a044_devices_that_wait_have_a_ceiling,
    pending::a043_a_device_that_nobody_answers_goes_soon_and_one_that_was_allowed_is_remembered,
    pending::a_consent_grows_and_is_forgotten_whole,
    pending::consents_given_at_once_all_count,
    pending::a_client_of_the_operator_stays_and_makes_no_room,
    pending::an_account_that_is_removed_leaves_its_name,
    pending::a_grant_on_behalf_of_another_ends_with_it,
    pending::one_person_of_an_issuer_is_one_account,
    principals::a066_a083_what_ends_is_refused_everywhere_within_a_moment,
    principals::a066_principals_on_behalf_of_another_grant_end_with_it,
    principals::tokens_that_a_revoked_key_signed_leave_the_cache_at_once,
    principals::a083_principals_follow_the_account_at_once,
    principals::a084_callers_who_come_at_once_get_their_own_principals,
    principals::cached_principals_end_with_their_token_and_are_read_anew_after_a_while,
}
