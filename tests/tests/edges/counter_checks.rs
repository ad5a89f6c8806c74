//! Shows that the tests of the edges can fail. Each case here removes a protection from a shipped configuration,
//! and names the test that must notice it.
//!
//! If two protections prevent the same attack, both are removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tests::Edge;

use crate::world::{self, BROKEN, Broken};
use crate::{availability, forged, paths, possession, routers, suite, tools};

/// Runs a test with a changed configuration. The stack must start, and the test must fail.
async fn notices<F: Future<Output = ()> + Send + 'static>(
    edge: Edge,
    changes: &[(&str, &str)],
    test: fn(Edge) -> F,
) {
    if !world::is_here(edge, "counter_checks") {
        return;
    }
    let started = Arc::new(AtomicBool::new(false));
    let changes = changes.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
    let broken = Broken { changes, started: started.clone() };
    let ended = tokio::spawn(BROKEN.scope(broken, test(edge))).await;
    assert!(
        started.load(Ordering::Relaxed),
        "{edge} does not start with this change, so the test proves nothing"
    );
    assert!(ended.is_err_and(|error| error.is_panic()), "the test does not notice this change");
}

macro_rules! breaking {
    ($($name:ident: $edge:ident, [$(($from:expr, $to:expr)),+ $(,)?], $test:path;)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                notices(Edge::$edge, &[$(($from, $to)),+], $test).await;
            }
        )+
    };
}

breaking! {
    envoy_that_allows_when_the_check_fails: EnvoyHttp,
        [("failure_mode_allow: false", "failure_mode_allow: true")],
        availability::a088_with_auth_service_down_nothing_passes_and_when_it_is_back_everything_does;
    envoy_that_hands_the_token_on: EnvoyHttp,
        [("[authorization, proxy-authorization, cookie, dpop]", "[cookie, dpop]")],
        suite::a_good_token_passes_and_the_wrapper_is_told_who_calls;
    envoy_that_forgets_an_identity_header: EnvoyHttp,
        [("- { exact: x-auth-email, ignore_case: true }", ""), ("x[^a-z0-9]auth[^a-z0-9].*", "x-other-.*")],
        forged::a076_identity_headers_of_the_client_never_survive;
    envoy_that_lets_aliases_pass: EnvoyHttp,
        [
            ("headers_with_underscores_action: REJECT_REQUEST", "headers_with_underscores_action: ALLOW"),
            ("x[^a-z0-9]auth[^a-z0-9].*", "x-auth-.*"),
        ],
        forged::a073_an_alias_of_an_identity_header_does_not_pass;
    envoy_that_checks_one_path_too_few: EnvoyHttp,
        [("request_headers_to_remove: [", "typed_per_filter_config: *open\n                          request_headers_to_remove: [")],
        suite::without_a_token_every_method_is_challenged_exactly;
    envoy_that_forgets_the_edge_secret: EnvoyHttp,
        [("{ key: x-edge-secret, value:", "{ key: x-other, value:")],
        suite::a_good_token_passes_and_the_wrapper_is_told_who_calls;

    envoy_that_uses_no_other_instance: EnvoyHttp,
        [("retry_on: connect-failure\n", "retry_on: refused-stream\n")],
        availability::a_request_goes_to_another_instance_of_a_wrapper_that_is_not_running;
    envoy_that_repeats_a_call: EnvoyHttp,
        [("retry_on: connect-failure\n", "retry_on: connect-failure,reset\n")],
        availability::a_post_that_has_reached_an_instance_of_the_wrapper_is_never_sent_again;

    envoy_grpc_that_allows_when_the_check_fails: EnvoyGrpc,
        [("failure_mode_allow: false", "failure_mode_allow: true")],
        availability::a088_with_auth_service_down_nothing_passes_and_when_it_is_back_everything_does;
    envoy_grpc_that_joins_doubled_headers: EnvoyGrpc,
        [("encode_raw_headers: true", "encode_raw_headers: false")],
        suite::a_good_token_passes_and_the_wrapper_is_told_who_calls;

    nginx_that_uses_no_other_instance: Nginx,
        [("proxy_next_upstream error;", "proxy_next_upstream off;")],
        availability::a_request_goes_to_another_instance_of_a_wrapper_that_is_not_running;
    nginx_that_repeats_a_call: Nginx,
        [
            ("proxy_next_upstream error;", "proxy_next_upstream error non_idempotent;"),
            ("proxy_request_buffering off;", ""),
        ],
        availability::a_post_that_has_reached_an_instance_of_the_wrapper_is_never_sent_again;
    nginx_that_forgets_an_identity_header: Nginx,
        [("proxy_set_header X-Auth-Email $auth_email;", "")],
        forged::a076_identity_headers_of_the_client_never_survive;
    nginx_that_hands_the_token_on: Nginx,
        [("proxy_set_header Authorization \"\";", "")],
        suite::a_good_token_passes_and_the_wrapper_is_told_who_calls;
    nginx_that_does_not_ask: Nginx,
        [("auth_request check;", "auth_request off;"), ("if ($request_uri !~", "if ($http_no_token !~")],
        paths::a081_a_method_is_the_one_on_the_request_line;
    nginx_that_limits_bodies: Nginx,
        [("client_max_body_size 0;", "")],
        suite::eight_mebibytes_pass_each_way;
    nginx_that_believes_the_client_about_the_method: Nginx,
        [("X-Original-Method $request_method;", "X-Original-Method $http_x_original_method;")],
        suite::a_good_token_passes_and_the_wrapper_is_told_who_calls;
    nginx_that_keeps_the_nonce_to_itself: Nginx,
        [("add_header DPoP-Nonce $denial_nonce always;", "")],
        possession::a_bound_token_works_with_a_proof_and_the_nonce_that_the_check_asks_for;
    nginx_that_loses_the_challenge_of_a_403: Nginx,
        [("403 $auth_challenge;", "403 \"\";")],
        tools::a092_a_modern_request_is_judged_by_the_tool_that_its_headers_name;
    nginx_that_sends_preflights_to_the_check: Nginx,
        [("if ($request_method = OPTIONS)", "if ($request_method = NEVER)")],
        suite::a_browser_gets_its_preflight_answered_and_may_read_a_challenge;

    caddy_that_lets_the_client_name_hop_by_hop_headers: Caddy,
        [("request_header -Connection\n", "")],
        forged::a074_connection_does_not_drop_an_identity_header;
    caddy_that_hands_the_token_on: Caddy,
        [("request_header -*auth*\n", "")],
        suite::a_good_token_passes_and_the_wrapper_is_told_who_calls;
    caddy_that_forgets_an_identity_header: Caddy,
        [
            ("request_header -X-Auth-*\n", ""),
            ("request_header -*auth*\n", "request_header -Authorization\n"),
            ("request_header X-Auth-Email {http.reverse_proxy.header.X-Auth-Email}\n", ""),
        ],
        forged::a076_identity_headers_of_the_client_never_survive;
    caddy_that_hands_cookies_on: Caddy,
        [("reverse_proxy @WRAPPER_ADDRESS@:@WRAPPER_PORT@ {\n\t\t\t\theader_up -Cookie", "reverse_proxy @WRAPPER_ADDRESS@:@WRAPPER_PORT@ {")],
        suite::a_good_token_passes_and_the_wrapper_is_told_who_calls;
    caddy_that_does_not_ask: Caddy,
        [("@yes status 200\n", "@yes status 200 401\n")],
        suite::without_a_token_every_method_is_challenged_exactly;

    traefik_that_believes_forwarding_headers: Traefik,
        [("insecure: false", "insecure: true")],
        forged::a069_forwarding_headers_of_a_client_count_for_nothing;
    traefik_that_forgets_an_identity_header: Traefik,
        [("(?i)^x[^a-z0-9]auth[^a-z0-9]", "(?i)^x-auth-(subject|username|assertion|scope|client-id|groups)$")],
        forged::a076_identity_headers_of_the_client_never_survive;
    traefik_that_hands_the_token_on: Traefik,
        [("^((proxy[^a-z0-9])?authorization|cookie", "^(cookie")],
        suite::a_good_token_passes_and_the_wrapper_is_told_who_calls;
    traefik_that_does_not_ask: Traefik,
        [("to-check@file, check@file]", "to-check@file]")],
        suite::without_a_token_every_method_is_challenged_exactly;
    traefik_that_sends_preflights_to_the_check: Traefik,
        [("rule: \"Method(`OPTIONS`)\"", "rule: \"Path(`/none`)\"")],
        suite::a_browser_gets_its_preflight_answered_and_may_read_a_challenge;
    traefik_that_believes_a_load_balancer_about_the_path: Traefik,
        [("          X-Forwarded-Uri: \"\"\n", "")],
        routers::what_a_load_balancer_hands_on;
    traefik_that_believes_a_load_balancer_about_the_method: Traefik,
        [("          X-Forwarded-Method: \"\"\n", "")],
        routers::what_a_load_balancer_hands_on;
    traefik_that_has_the_path_changed_before_the_check: Traefik,
        [
            ("to-check@file, check@file]", "moved@file, to-check@file, check@file]"),
            ("    to-check:\n", "    moved: { replacePath: { path: /elsewhere } }\n    to-check:\n"),
        ],
        suite::a_good_token_passes_and_the_wrapper_is_told_who_calls;
}
