//! The lifetimes of tokens, codes, sessions and forms.

use std::time::Duration;

use serde::Deserialize;

use crate::keys::set::MAX_TOKEN_LIFETIME;

use super::durations;
use super::{Environment, Problems};

/// All lifetimes, both configurable and fixed.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Lifetime of access tokens (RFC 9068; `ACCESS_TOKEN_TTL`, default 1 h).
    pub access_token: Duration,
    /// Lifetime of authorization codes (`CODE_TTL`, default 60 s). RFC 6749 §4.1.2 recommends at most 10
    /// minutes.
    pub code: Duration,
    /// How long a grant is valid after its last refresh (`REFRESH_TOKEN_TTL`, default 90 d).
    pub refresh_token: Duration,
    /// How long a used refresh token can be repeated while its successor is unused (`REFRESH_GRACE`, default
    /// 120 s).
    pub refresh_grace: Duration,
    /// How long a browser stays logged in (`LOGIN_SESSION_TTL`, default 12 h).
    pub login_session: Duration,
    /// Lifetime of device codes (RFC 8628 §3.2), which is fixed.
    pub device_code: Duration,
    /// Lifetime of pushed requests (RFC 9126 §2.2), which includes the time for the login. It is fixed.
    pub pushed_request: Duration,
    /// How long a form can stay open before it is submitted. This is fixed.
    pub form: Duration,
}

#[derive(Default, Deserialize)]
struct Raw {
    access_token_ttl: Option<String>,
    code_ttl: Option<String>,
    refresh_token_ttl: Option<String>,
    refresh_grace: Option<String>,
    login_session_ttl: Option<String>,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

pub(super) fn read(environment: &Environment, problems: &mut Problems) -> Lifetimes {
    let raw: Raw = environment.concern(problems);
    let seconds = Duration::from_secs;
    let mut read = |name, text, default, least, most| {
        durations::read(name, text, seconds(default), seconds(least), seconds(most), problems)
    };
    Lifetimes {
        access_token: read("ACCESS_TOKEN_TTL", raw.access_token_ttl, HOUR, 1, MAX_TOKEN_LIFETIME.as_secs()),
        code: read("CODE_TTL", raw.code_ttl, MINUTE, 5, 10 * MINUTE),
        refresh_token: read("REFRESH_TOKEN_TTL", raw.refresh_token_ttl, 90 * DAY, MINUTE, 3650 * DAY),
        refresh_grace: read("REFRESH_GRACE", raw.refresh_grace, 2 * MINUTE, 0, HOUR),
        login_session: read("LOGIN_SESSION_TTL", raw.login_session_ttl, 12 * HOUR, MINUTE, 90 * DAY),
        device_code: seconds(10 * MINUTE),
        pushed_request: seconds(10 * MINUTE),
        form: seconds(15 * MINUTE),
    }
}
