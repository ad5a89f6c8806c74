//! Tests of a disk that is full, that fails once, or that stalls.

use tests::browser::Person;
use tests::setup::ACCOUNT;
use tests::{Registration, Setup, Stack, Tokens};

use crate::sky::{Sky, SmallDisk, ana, until_ready_is};

/// Whether the access token is accepted at the MCP endpoint.
async fn opens(stack: &Stack, tokens: &Tokens) -> bool {
    let answer = stack.http.post(&stack.mcp_url).bearer_auth(&tokens.access_token).send().await.unwrap();
    assert!([200, 401].contains(&answer.status().as_u16()), "{answer:?}");
    answer.status() == 200
}

/// Revokes a grant. Returns the status of the response.
async fn revoke(stack: &Stack, client: &Registration, tokens: &Tokens) -> u16 {
    let form = [("token", &tokens.refresh_token), ("client_id", &client.client_id)];
    stack.http.post(stack.endpoint("revoke")).form(&form).send().await.unwrap().status().as_u16()
}

/// Creates two grants, and revokes the second one. Returns both.
async fn grants(stack: &Stack) -> ((Registration, Tokens), (Registration, Tokens)) {
    let person = ana();
    let kept = stack.log_in_as(&person, &stack.mcp_url).await.unwrap();
    let revoked = stack.log_in_as(&person, &stack.mcp_url).await.unwrap();
    assert_eq!(revoke(stack, &revoked.0, &revoked.1).await, 200);
    assert!(opens(stack, &kept.1).await && !opens(stack, &revoked.1).await);
    (kept, revoked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_at_once_refuses_what_it_cannot_keep_and_is_over_when_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::of(6 * 1024, place.path(), "weather::disk::a_full_disk") else { return };
    let upstream = tests::upstream::Upstream::start().await;
    let setup = Setup::as_shipped()
        .in_front_of(upstream.port)
        .auth_setting("REGISTRATION_RATE", "100000")
        .auth_setting("DATA_DIR", disk.place().to_str().unwrap());
    let mut stack = setup.start().await;
    let (kept, revoked) = grants(&stack).await;

    disk.fill();
    // The store's file contains some free space, which is used up first.
    let mut more = 0;
    while stack.register_as(&format!("Newcomer {more}")).await.is_ok() {
        more += 1;
        assert!(more < 20_000, "a full disk accepts more and more clients");
    }
    let answer = until_ready_is(&stack, 503).await;
    assert!(answer.body.contains("No space left on device"), "{}", answer.body);
    assert!(stack.register_as("Newcomer").await.is_err(), "a client is registered on a full disk");
    assert!(opens(&stack, &kept.1).await, "a check that only reads is refused");
    assert!(!opens(&stack, &revoked.1).await, "a revoked token is valid again");
    assert!(stack.metrics().await.contains("mcp_gate_store_writes_failing 1"));
    assert!(stack.log_of("auth-service").contains("nobody can log in or register until it can"));
    let enabled = stack.try_operator(&["user", "enable", "ana"]).unwrap_err();
    assert!(enabled.contains("No space left on device"), "{enabled}");

    disk.free();
    until_ready_is(&stack, 200).await;
    assert!(stack.metrics().await.contains("mcp_gate_store_writes_failing 0"));
    stack.register_as("Newcomer").await.unwrap();
    assert!(!opens(&stack, &revoked.1).await, "a revoked token is valid again");
    assert_eq!(revoke(&stack, &kept.0, &kept.1).await, 200);
    assert!(!opens(&stack, &kept.1).await);

    stack.kill_auth_service();
    stack.start_auth_service().await;
    assert!(
        !opens(&stack, &revoked.1).await && !opens(&stack, &kept.1).await,
        "a revoked token is valid again"
    );
    stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();
}

/// Adds an account with this name. Returns a client and tokens of its user.
async fn somebody(stack: &Stack, name: &str) -> (Registration, Tokens) {
    stack.add_account(name, Some(ACCOUNT.1));
    let client = stack.register_as(&format!("Client of {name}")).await.unwrap();
    let code = stack.code(&client, &Person::new(name, ACCOUNT.1), &stack.mcp_url).await.unwrap();
    let tokens = stack.redeem(&client, &code, &stack.mcp_url).await.unwrap();
    (client, tokens)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a100_whoever_is_shut_out_stays_shut_out_although_another_program_keeps_the_disk_full() {
    let place = tempfile::tempdir().unwrap();
    let test = "weather::disk::a100_whoever_is_shut_out_stays_shut_out";
    let Some(disk) = SmallDisk::of(6 * 1024, place.path(), test) else { return };
    let upstream = tests::upstream::Upstream::start().await;
    let setup = Setup::as_shipped()
        .in_front_of(upstream.port)
        .auth_setting("REGISTRATION_RATE", "100000")
        .auth_setting("DATA_DIR", disk.place().to_str().unwrap());
    let mut stack = setup.start().await;
    let (revoked, kept) = grants(&stack).await;
    let (bob, carol) = (somebody(&stack, "bob").await, somebody(&stack, "carol").await);

    let filler = disk.keep_full();
    let mut more = 0;
    while stack.register_as(&format!("Newcomer {more}")).await.is_ok() {
        more += 1;
        assert!(more < 20_000, "a full disk accepts more and more clients");
    }
    until_ready_is(&stack, 503).await;
    assert!(opens(&stack, &bob.1).await && opens(&stack, &carol.1).await && opens(&stack, &revoked.1).await);

    assert_eq!(revoke(&stack, &revoked.0, &revoked.1).await, 200);
    stack.operator(&["user", "disable", "bob"]);
    stack.operator(&["client", "delete", &carol.0.client_id]);
    for (who, (_, tokens)) in [("revoked", &revoked), ("bob", &bob), ("carol", &carol), ("before", &kept)] {
        assert!(!opens(&stack, tokens).await, "{who} still has access");
    }
    let answer = stack.ready().await;
    assert!(answer.status == 503 && answer.body.contains("kept in store.reserve"), "{}", answer.body);
    assert!(!stack.metrics().await.contains("mcp_gate_store_changes_waiting 0"));

    stack.kill_auth_service();
    // During the start, the service can find free space within the store's own file, so that the changes in the
    // reserve become part of the store.
    stack.start_auth_service_until_ready_is(&[200, 503]).await;
    while stack.register_as(&format!("Newcomer {more}")).await.is_ok() {
        more += 1;
        assert!(more < 20_000, "a full disk accepts more and more clients");
    }
    until_ready_is(&stack, 503).await;
    for (who, (_, tokens)) in [("revoked", &revoked), ("bob", &bob), ("carol", &carol), ("before", &kept)] {
        assert!(!opens(&stack, tokens).await, "{who} has access again after a restart");
    }
    stack.operator(&["user", "disable", "carol"]);
    let kid = first_key(&stack);
    stack.operator(&["keys", "revoke", &kid]);
    assert_ne!(first_key(&stack), kid);

    drop(filler);
    disk.free();
    until_ready_is(&stack, 200).await;
    assert!(stack.metrics().await.contains("mcp_gate_store_changes_waiting 0"));
    let accounts = stack.operator(&["user", "list"]);
    assert!(accounts.matches("disabled").count() == 2, "{accounts}");
    stack.operator(&["user", "enable", "carol"]);
    stack.kill_auth_service();
    stack.start_auth_service().await;
    assert_ne!(first_key(&stack), kid, "a revoked key is valid again");
    let accounts = stack.operator(&["user", "list"]);
    assert!(accounts.matches("disabled").count() == 1, "an old change was repeated: {accounts}");
    for (who, (_, tokens)) in [("revoked", &revoked), ("bob", &bob), ("carol", &carol), ("before", &kept)] {
        assert!(!opens(&stack, tokens).await, "{who} has access again after the disk has space");
    }
}

/// The identifier of the first signing key.
fn first_key(stack: &Stack) -> String {
    let listed = stack.operator(&["keys", "list"]);
    listed.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_once_loses_nothing_acknowledged_and_is_over_by_itself() {
    let sky = Sky::new();
    let upstream = tests::upstream::Upstream::start().await;
    let mut stack = sky.over(Setup::as_shipped().in_front_of(upstream.port)).start().await;
    let (kept, revoked) = grants(&stack).await;

    for round in 0..3 {
        sky.fail_syncs(1);
        assert!(
            stack.register_as(&format!("Unlucky {round}")).await.is_err(),
            "a client was registered that is not on disk"
        );
        assert_eq!(sky.syncs_to_fail(), 0, "the sync did not fail");
        until_ready_is(&stack, 200).await;
        assert!(opens(&stack, &kept.1).await, "round {round}");
        assert!(!opens(&stack, &revoked.1).await, "a revoked token is valid again in round {round}");
        stack.register_as(&format!("Lucky {round}")).await.unwrap();
    }
    stack.kill_auth_service();
    stack.start_auth_service().await;
    assert!(opens(&stack, &kept.1).await);
    assert!(!opens(&stack, &revoked.1).await, "a revoked token is valid again");
    stack.refresh(&kept.0, &kept.1.refresh_token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_every_sync_fails_can_be_read_and_what_is_revoked_is_refused() {
    let sky = Sky::new();
    let upstream = tests::upstream::Upstream::start().await;
    let stack = sky.over(Setup::as_shipped().in_front_of(upstream.port)).start().await;
    let (kept, revoked) = grants(&stack).await;
    let unseen = stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();

    sky.fail_syncs(1_000_000);
    assert!(stack.register_as("Newcomer").await.is_err(), "a client is registered that is not on disk");
    until_ready_is(&stack, 503).await;
    assert!(opens(&stack, &unseen.1).await, "a token that is not cached is refused");
    assert!(opens(&stack, &kept.1).await && !opens(&stack, &revoked.1).await);
    // The revocation cannot be kept on disk, so its client must know that a restart would undo it.
    assert_eq!(revoke(&stack, &unseen.0, &unseen.1).await, 503);
    assert!(!opens(&stack, &unseen.1).await, "a revoked token is valid");
    let disabled = stack.try_operator(&["user", "disable", ACCOUNT.0]).unwrap_err();
    assert!(disabled.contains("a restart before the disk accepts writes again undoes it"), "{disabled}");
    assert!(!opens(&stack, &kept.1).await, "a disabled user has access");

    sky.fail_syncs(0);
    until_ready_is(&stack, 200).await;
    assert!(!opens(&stack, &unseen.1).await && !opens(&stack, &kept.1).await, "a revocation was lost");
    stack.operator(&["user", "enable", ACCOUNT.0]);
    stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();
    assert!(
        !opens(&stack, &unseen.1).await && !opens(&stack, &revoked.1).await,
        "a revoked token is valid again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stalls_is_told_nobody_waits_for_it_and_what_was_requested_counts_when_it_answers() {
    let sky = Sky::new();
    let upstream = tests::upstream::Upstream::start().await;
    let stack = sky.over(Setup::as_shipped().in_front_of(upstream.port)).start().await;
    let (kept, revoked) = grants(&stack).await;

    sky.hang("hang-sync", true);
    let answer = until_ready_is(&stack, 503).await;
    assert!(answer.body.contains("the disk has not completed a write for 1 s"), "{}", answer.body);
    assert!(stack.metrics().await.contains("mcp_gate_store_writes_failing 1"));
    assert!(stack.log_of("auth-service").contains("no access can be revoked"));
    assert!(stack.register_as("Newcomer").await.is_err(), "a client is registered on a disk that stalls");
    let disabled = stack.try_operator(&["user", "disable", ACCOUNT.0]).unwrap_err();
    assert!(disabled.contains("the disk has not completed a write for 5 s"), "{disabled}");
    assert!(opens(&stack, &kept.1).await && !opens(&stack, &revoked.1).await);

    sky.hang("hang-sync", false);
    until_ready_is(&stack, 200).await;
    assert!(stack.metrics().await.contains("mcp_gate_store_writes_failing 0"));
    assert!(!opens(&stack, &kept.1).await, "the change that was requested while the disk stalled was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_its_client_revokes_while_the_disk_stalls_is_revoked_when_it_responds() {
    let sky = Sky::new();
    let upstream = tests::upstream::Upstream::start().await;
    let stack = sky.over(Setup::as_shipped().in_front_of(upstream.port)).start().await;
    let (kept, _revoked) = grants(&stack).await;
    sky.hang("hang-sync", true);
    until_ready_is(&stack, 503).await;
    assert_eq!(revoke(&stack, &kept.0, &kept.1).await, 503);
    sky.hang("hang-sync", false);
    until_ready_is(&stack, 200).await;
    assert!(!opens(&stack, &kept.1).await, "the revocation was lost");
    assert!(stack.refresh(&kept.0, &kept.1.refresh_token).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a032_a_refresh_on_a_disk_that_stalls_for_longer_than_the_grace_period_costs_no_grant() {
    let sky = Sky::new();
    let upstream = tests::upstream::Upstream::start().await;
    let setup = Setup::as_shipped().in_front_of(upstream.port).auth_setting("REFRESH_GRACE", "5s");
    let stack = sky.over(setup).start().await;
    let (client, tokens) = stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();

    sky.hang("hang-sync", true);
    let refused = stack.refresh(&client, &tokens.refresh_token).await;
    assert!(refused.is_err(), "a token was replaced on a disk that stalls");
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    sky.hang("hang-sync", false);
    until_ready_is(&stack, 200).await;
    // The refresh was completed when the disk responded, eight seconds after the request.
    stack.refresh(&client, &tokens.refresh_token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a032_a_refresh_whose_response_was_lost_is_repeated_although_the_disk_stalls() {
    let sky = Sky::new();
    let upstream = tests::upstream::Upstream::start().await;
    let stack = sky.over(Setup::as_shipped().in_front_of(upstream.port)).start().await;
    let (client, tokens) = stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();
    let first = stack.refresh(&client, &tokens.refresh_token).await.unwrap();

    sky.hang("hang-sync", true);
    until_ready_is(&stack, 503).await;
    let repeated = stack.refresh(&client, &tokens.refresh_token).await.unwrap();
    assert_eq!(repeated.refresh_token, first.refresh_token);
    sky.hang("hang-sync", false);
    until_ready_is(&stack, 200).await;
    stack.refresh(&client, &first.refresh_token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a032_a_disk_that_fails_for_longer_than_the_grace_period_after_it_has_stored_a_refresh_costs_no_grant()
 {
    let sky = Sky::new();
    let upstream = tests::upstream::Upstream::start().await;
    let setup = Setup::as_shipped().in_front_of(upstream.port).auth_setting("REFRESH_GRACE", "3s");
    let stack = sky.over(setup).start().await;
    let (client, tokens) = stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();

    // The data reaches the disk, but the sync reports an error.
    sky.hang("late-fail", true);
    let refused = stack.refresh(&client, &tokens.refresh_token).await;
    assert!(refused.is_err(), "a refresh succeeded on a disk that fails");
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    sky.hang("late-fail", false);
    until_ready_is(&stack, 200).await;
    stack.refresh(&client, &tokens.refresh_token).await.unwrap();
}
