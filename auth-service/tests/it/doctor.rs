//! Tests of `auth-service doctor` with a healthy stack, and with stacks that each have one fault.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use auth_service::doctor::{Examination, Finding, Outcome, examine};
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::keys::seal::StoreKey;
use auth_service::operator::socket;
use auth_service::store::embedded::{self, EmbeddedStore};
use auth_service::store::redis::RedisAddress;
use futures_util::stream::{self, StreamExt};
use serde_json::Value;

use super::document_host::tls_of_localhost;
use super::faulty_edge::{Fault, Patient, patient};

/// How long the doctor waits for a response. Even a busy machine responds within this time, so the doctor never
/// reports a late response as missing.
const PATIENT: Duration = Duration::from_secs(120);

/// The findings of the doctor for a stack with this fault and these settings.
async fn findings(fault: Fault, settings: &[(&str, &str)]) -> Vec<Finding> {
    examined(&patient(fault, settings, None).await, None).await
}

async fn examined(patient: &Patient, extra_roots: Option<Vec<u8>>) -> Vec<Finding> {
    let Patient { app, origin, server } = patient;
    let mut config = app.state.config.clone();
    // Unless the test sets another directory, the doctor has that of the service. With Redis, the service has none.
    let is_embedded = embedded::exists(app.directory()).unwrap();
    if !is_embedded {
        config.storage.redis = Some(RedisAddress::parse(&app.url_of_store()).unwrap());
    } else if config.storage.data_dir == Path::new("data") {
        config.storage.data_dir = app.directory().to_owned();
    }
    let operators = socket::Operators::listen(app.directory()).unwrap();
    let operators = actix_web::rt::spawn(socket::serve(operators, app.state.clone()));
    config.listeners.ops = app.ops.strip_prefix("http://").unwrap().parse().unwrap();
    config.listeners.edge = app.edge.strip_prefix("http://").unwrap().parse().unwrap();
    let examination = Examination {
        url: format!("{origin}/mcp").parse().unwrap(),
        extra_roots,
        settings: Some(config),
        unset: Vec::new(),
        now: SystemClock.now(),
        patience: PATIENT,
    };
    let mut reported = 0;
    let findings = examine(&examination, &mut |_| reported += 1).await.unwrap();
    assert_eq!(reported, findings.len(), "not every finding was reported as progress");
    server.stop(false).await;
    operators.abort();
    findings
}

/// The checks with a problem or a warning.
fn complaints(findings: &[Finding]) -> Vec<(&'static str, Outcome)> {
    let is_bad = |outcome| matches!(outcome, Outcome::Problem | Outcome::Warning);
    let bad = findings.iter().filter(|finding| is_bad(finding.outcome));
    bad.map(|finding| (finding.check, finding.outcome)).collect()
}

fn unexamined(findings: &[Finding]) -> Vec<&'static str> {
    let unknown = findings.iter().filter(|finding| finding.outcome == Outcome::Unexamined);
    unknown.map(|finding| finding.check).collect()
}

#[actix_web::test]
async fn an_auth_service_that_is_not_reached_is_told_once_with_its_cause() {
    for (ops_answers, cause) in [(true, "the edge does not reach it"), (false, "nor on OPS_LISTEN")] {
        let mut patient = patient(Fault::Down, &[], None).await;
        if !ops_answers {
            // Nothing listens at this address.
            patient.app.ops = "http://127.0.0.1:1".to_owned();
        }
        let findings = examined(&patient, None).await;
        assert_eq!(complaints(&findings), [("auth-service", Outcome::Problem)], "{findings:#?}");
        assert_eq!(unexamined(&findings), ["examination"]);
        let bad = findings.iter().find(|finding| finding.outcome == Outcome::Problem).unwrap();
        assert!(bad.what.contains(cause) && bad.meaning.is_some() && bad.fix.is_some(), "{bad:?}");
        let good = findings.iter().find(|finding| finding.check == "challenge").unwrap();
        assert!(good.what.contains("lets no request without a token through"), "{good:?}");
    }
    let open = findings(Fault::DownAndOpen, &[]).await;
    assert_eq!(
        complaints(&open),
        [("auth-service", Outcome::Problem), ("challenge", Outcome::Problem)],
        "{open:#?}"
    );
}

#[actix_web::test]
async fn a_check_that_fails_is_told_once() {
    for (fault, words) in
        [(Fault::NoAuthService, "cannot reach EDGE_LISTEN"), (Fault::NoStore, "nobody can log in")]
    {
        let findings = findings(fault, &[]).await;
        assert_eq!(complaints(&findings), [("challenge", Outcome::Problem)], "{findings:#?}");
        assert_eq!(unexamined(&findings), ["bypass", "service"]);
        let bad = findings.iter().find(|finding| finding.outcome == Outcome::Problem).unwrap();
        assert!(bad.meaning.unwrap().contains(words), "{bad:?}");
    }
}

/// All users in an office can share one address, so that its limit is used up without a fault of the deployment.
#[actix_web::test]
async fn an_address_that_has_sent_too_many_requests_is_not_taken_for_a_fault() {
    let findings = findings(Fault::TooMany, &[]).await;
    assert_eq!(complaints(&findings), [], "{findings:#?}");
    for check in ["challenge", "resource metadata", "service"] {
        assert!(unexamined(&findings).contains(&check), "{check}: {findings:#?}");
    }
    let told = findings.iter().find(|finding| finding.check == "challenge").unwrap();
    assert!(told.what.contains("too many requests") && told.fix.is_some(), "{told:?}");
}

#[actix_web::test]
async fn a_status_is_told_once_with_what_to_do_about_this_status() {
    for (fault, what, fix, other_fix) in [
        (Fault::NoRoute, "return 404 instead of 401", "check the path of this URL", "TRUSTED_PROXIES"),
        (Fault::Refuses, "return 403 instead of 401", "TRUSTED_PROXIES", "check the path"),
    ] {
        let findings = findings(fault, &[]).await;
        assert_eq!(complaints(&findings), [("challenge", Outcome::Problem)], "{findings:#?}");
        let bad = findings.iter().find(|finding| finding.outcome == Outcome::Problem).unwrap();
        assert!(
            bad.what.starts_with("POST, GET, DELETE without a token") && bad.what.contains(what),
            "{bad:?}"
        );
        let told = bad.fix.unwrap();
        assert!(told.contains(fix) && !told.contains(other_fix), "{told}");
    }
}

#[actix_web::test]
async fn a_healthy_stack_has_no_findings() {
    let findings = findings(Fault::None, &[]).await;
    assert_eq!(complaints(&findings), [], "{findings:#?}");
    // The doctor cannot test whether the service behind the check works, and reports that.
    assert_eq!(unexamined(&findings), ["service"]);
    let checks = [
        "dns",
        "connection",
        "challenge",
        "clock",
        "resource metadata",
        "browser",
        "server metadata",
        "keys",
        "registration",
        "bypass",
        "store",
        "listeners",
    ];
    for check in checks {
        assert!(findings.iter().any(|finding| finding.check == check), "{check} was not examined");
    }
    let keys = findings.iter().find(|finding| finding.check == "keys").unwrap();
    assert!(keys.what.ends_with("has 1 public key"), "{keys:?}");
}

#[actix_web::test]
async fn a_key_of_the_store_that_others_can_read_is_a_warning() {
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("store.key");
    std::fs::write(&key, "a key").unwrap();
    let settings = [("DATA_DIR", place.path().to_str().unwrap())];
    for (mode, expected) in [(0o644, true), (0o640, true), (0o600, false)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let findings = findings(Fault::None, &settings).await;
        let told = findings.iter().any(|finding| {
            finding.outcome == Outcome::Warning && finding.what.contains("store.key can be read by users")
        });
        assert_eq!(told, expected, "{mode:o}: {findings:#?}");
    }
}

#[actix_web::test]
async fn a_data_dir_that_is_not_that_of_the_service_is_told() {
    let place = tempfile::tempdir().unwrap();
    let settings = |path: &Path| [("DATA_DIR", path.to_str().unwrap().to_owned())];
    let examined = async |path: &Path| {
        let settings = settings(path);
        let patient =
            patient(Fault::None, &settings.each_ref().map(|(name, path)| (*name, &**path)), None).await;
        embedded::exists(patient.app.directory()).unwrap().then_some(())?;
        Some(examined(&patient, None).await)
    };
    // With Redis, there is no such directory.
    let Some(empty) = examined(place.path()).await else { return };
    assert_eq!(complaints(&empty), [("settings", Outcome::Problem)], "{empty:#?}");
    let absent = examined(&place.path().join("absent")).await.unwrap();
    assert_eq!(complaints(&absent), [("settings", Outcome::Problem)], "{absent:#?}");
    drop(EmbeddedStore::open(place.path(), &StoreKey::new([7; 32])).unwrap());
    let other = examined(place.path()).await.unwrap();
    assert_eq!(complaints(&other), [("settings", Outcome::Problem)], "{other:#?}");
    for (findings, words) in [(empty, "there is no store in"), (other, "does not use the store in")] {
        let told = findings.iter().find(|finding| finding.check == "settings").unwrap();
        assert!(told.what.contains(words) && told.what.contains(place.path().to_str().unwrap()), "{told:?}");
    }
    // What cannot be looked into is not taken for an empty directory.
    let file = place.path().join("store.redb");
    let unknown = examined(&file).await.unwrap();
    assert_eq!((complaints(&unknown), unexamined(&unknown)), (Vec::new(), vec!["settings", "service"]));
}

#[actix_web::test]
async fn a_redirect_host_that_only_the_doctor_has_is_no_fault_of_the_registration() {
    let findings = findings(Fault::None, &[("REGISTRATION_REDIRECT_HOSTS", "claude.ai")]).await;
    assert_eq!(complaints(&findings), [], "{findings:#?}");
    let told = findings.iter().find(|finding| finding.check == "registration").unwrap();
    assert_eq!(told.outcome, Outcome::Unexamined);
    assert!(told.what.contains("does not allow http://127.0.0.1/mcp-gate-doctor: "), "{told:?}");
    // The server's own description of the error.
    assert!(told.what.contains("does not allow redirect URIs at 127.0.0.1"), "{told:?}");
    assert!(told.fix.unwrap().contains("REGISTRATION_REDIRECT_HOSTS"), "{told:?}");
}

#[actix_web::test]
async fn every_fault_is_found_and_nothing_else_is_blamed() {
    use Outcome::{Problem, Warning};
    let faults = [
        (Fault::Unchecked, "challenge", Problem),
        (Fault::UncheckedGet, "challenge", Problem),
        (Fault::BelievesIdentity, "bypass", Problem),
        (Fault::ResolvesDots, "bypass", Problem),
        (Fault::NoChallenge, "challenge", Problem),
        (Fault::NoMetadata, "resource metadata", Problem),
        (Fault::WrongMetadata, "resource metadata", Problem),
        (Fault::WrongIssuer, "server metadata", Problem),
        (Fault::PreflightChecked, "browser", Warning),
        (Fault::NoCors, "browser", Warning),
        (Fault::CorsCredentials, "browser", Problem),
        (Fault::NoRegistration, "registration", Problem),
        (Fault::NoDeletion, "registration", Warning),
        (Fault::NoAuthService, "challenge", Problem),
        (Fault::Clock, "clock", Problem),
        (Fault::NoKeys, "keys", Problem),
    ];
    let examined = stream::iter(faults)
        .map(async |(fault, check, outcome)| (fault, check, outcome, findings(fault, &[]).await));
    // The examinations can run at the same time, because each has its own stack.
    let mut examined = std::pin::pin!(examined.buffer_unordered(4));
    while let Some((fault, check, outcome, findings)) = examined.next().await {
        assert!(complaints(&findings).contains(&(check, outcome)), "{fault:?}: {:?}", complaints(&findings));
        let told = |finding: &&Finding| matches!(finding.outcome, Problem | Warning);
        for finding in findings.iter().filter(told) {
            assert!(finding.meaning.is_some() && finding.fix.is_some(), "{fault:?}: {}", finding.what);
        }
    }
}

#[actix_web::test]
async fn a_host_that_a_client_may_choose_alters_the_challenge() {
    let findings = findings(Fault::BelievesHost, &[("PROTECTED_HOSTS", "{authority}, evil.localhost")]).await;
    assert!(complaints(&findings).contains(&("bypass", Outcome::Problem)), "{findings:#?}");
}

#[actix_web::test]
async fn settings_that_do_not_fit_are_found_from_inside() {
    let other = findings(Fault::None, &[("PROTECTED_HOSTS", "localhost:1")]).await;
    assert!(complaints(&other).contains(&("settings", Outcome::Problem)), "{other:#?}");
    let open = findings(Fault::None, &[("OPS_LISTEN", "0.0.0.0:0")]).await;
    let found = complaints(&open);
    assert_eq!(found, [("listeners", Outcome::Problem)], "{open:#?}");
}

#[actix_web::test]
async fn a_service_that_is_not_ready_is_told_before_what_follows_from_it() {
    let mut patient = patient(Fault::Refuses, &[], None).await;
    // Nothing listens on this port.
    patient.app.ops = "http://127.0.0.1:1".to_owned();
    let findings = examined(&patient, None).await;
    let complaints = complaints(&findings);
    assert_eq!(
        complaints[..2],
        [("store", Outcome::Problem), ("challenge", Outcome::Problem)],
        "{findings:#?}"
    );
    let refused = findings.iter().find(|finding| finding.what.contains("403 instead of 401")).unwrap();
    assert!(refused.fix.unwrap().contains("nginx turns a failure of the store into 403"), "{refused:?}");
}

#[actix_web::test]
async fn a_policy_file_that_is_not_in_force_is_found_from_inside() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "default_scope = \"mcp\"\n").unwrap();
    let settings = [("POLICY_FILE", file.path().to_str().unwrap())];
    let patient = patient(Fault::None, &settings, None).await;
    std::fs::write(file.path(), "default_scope = ").unwrap();
    (0..2).for_each(|_| patient.app.state.policy.look());
    let findings = examined(&patient, None).await;
    assert_eq!(complaints(&findings), [("policy", Outcome::Warning)], "{findings:#?}");
    let stale = findings.iter().find(|finding| finding.check == "policy").unwrap();
    assert!(stale.what.contains(file.path().to_str().unwrap()), "{stale:?}");
}

#[actix_web::test]
async fn a_clock_of_auth_service_alone_that_jumped_is_found_from_inside() {
    let patient = patient(Fault::None, &[], None).await;
    patient.app.state.follow_keys().await;
    patient.app.set_clock_ahead(Duration::from_secs(200 * 86_400));
    let findings = examined(&patient, None).await;
    let clock =
        findings.iter().find(|finding| finding.check == "clock" && finding.outcome == Outcome::Problem);
    assert!(clock.is_some_and(|found| found.what.contains("jumped")), "{findings:#?}");
}

#[actix_web::test]
async fn a_name_without_address_and_a_port_without_listener_are_told_apart() {
    for (url, check) in [("https://nowhere.invalid/mcp", "dns"), ("http://127.0.0.1:1/mcp", "connection")] {
        let url = url.parse().unwrap();
        let (unset, now) = (Vec::new(), SystemClock.now());
        let examination =
            Examination { url, extra_roots: None, settings: None, unset, now, patience: PATIENT };
        let findings = examine(&examination, &mut |_| {}).await.unwrap();
        assert_eq!(complaints(&findings), [(check, Outcome::Problem)]);
        assert_eq!(unexamined(&findings), ["examination"]);
    }
}

#[actix_web::test]
async fn over_https_the_certificate_is_looked_at_and_every_request_is_made() {
    let (ca, acceptor) = tls_of_localhost();
    let healthy = patient(Fault::None, &[], Some(acceptor.clone())).await;
    let findings = examined(&healthy, Some(std::fs::read(ca.path()).unwrap())).await;
    assert_eq!(complaints(&findings), [], "{findings:#?}");
    for check in ["tls", "bypass", "registration"] {
        assert!(findings.iter().any(|finding| finding.check == check), "{check} was not examined");
    }
    let open = patient(Fault::BelievesIdentity, &[], Some(acceptor.clone())).await;
    let findings = examined(&open, Some(std::fs::read(ca.path()).unwrap())).await;
    assert!(complaints(&findings).contains(&("bypass", Outcome::Problem)), "{findings:#?}");
    // Without the CA's certificate, the doctor does not trust the stack's certificate.
    let findings = examined(&patient(Fault::None, &[], Some(acceptor)).await, None).await;
    assert_eq!(complaints(&findings), [("tls", Outcome::Problem)], "{findings:#?}");
}

/// Runs the command. Returns its exit code, standard output and standard error.
async fn doctor(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_auth-service"));
    command.arg("doctor").args(arguments).args(["--patience", "120"]).env_clear();
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[actix_web::test]
async fn the_command_says_it_to_people_and_to_programs() {
    let (ca, acceptor) = tls_of_localhost();
    let ca = ca.path().to_str().unwrap();
    let sick = patient(Fault::NoKeys, &[], Some(acceptor.clone())).await;
    let healthy = patient(Fault::None, &[], Some(acceptor)).await;
    let (sick, healthy) = (format!("{}/mcp", sick.origin), format!("{}/mcp", healthy.origin));

    let (code, said, _) = doctor(&[&healthy, "--ca-file", ca, "--json"]).await;
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(document["url"], healthy);
    assert_eq!((&document["problems"], &document["warnings"]), (&0.into(), &0.into()), "{said}");
    let findings = document["findings"].as_array().unwrap();
    assert!(
        findings.len() > 10
            && findings
                .iter()
                .rev()
                .skip(1)
                .all(|found| found["outcome"] == "fine" || found["check"] == "settings"),
        "{said}"
    );
    assert_eq!(
        (&findings.last().unwrap()["check"], &document["unexamined"]),
        (&"service".into(), &2.into()),
        "{said}"
    );

    let (code, said, _) = doctor(&[&sick, "--ca-file", ca, "--json"]).await;
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &document["problems"]), (Some(1), &1.into()), "{said}");
    let findings = document["findings"].as_array().unwrap();
    let problem = findings.iter().find(|finding| finding["outcome"] == "problem").unwrap();
    assert_eq!(problem["check"], "keys");
    assert!(["what", "meaning", "fix"].iter().all(|name| problem[*name].is_string()), "{problem}");

    let (code, said, _) = doctor(&[&sick, "--ca-file", ca]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("\nPROBLEM  keys: ") && said.contains("\n           fix: "), "{said}");
    assert!(said.lines().last().unwrap().starts_with("1 problem, 0 warnings, 2 not examined, "), "{said}");

    let unset = "no ISSUER and no PROTECTED_HOSTS, so";
    assert!(
        said.contains(&format!("unknown  settings: the environment of this command has {unset}")),
        "{said}"
    );
    let (_, said, _) = doctor(&[&sick, "--ca-file", ca, "--outside-only"]).await;
    assert!(!said.contains(unset) && said.contains(" 1 not examined, "), "{said}");

    for arguments in [&["ftp://mcp.example/mcp", "--json"][..], &[&healthy, "--ca-file", "/nowhere"]] {
        let (code, said, why) = doctor(arguments).await;
        assert_eq!((code, said.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(why.starts_with("auth-service: "), "{why}");
    }
}
