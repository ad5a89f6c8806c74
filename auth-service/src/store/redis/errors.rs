//! The errors of Redis: what they mean, and what the operator can do about them.

use std::time::Duration;

use fred::error::{Error, ErrorKind};

use crate::store::StoreError;

use super::address::RedisAddress;
use super::words::words_of;

/// Time limit for one command.
pub(super) const COMMAND: Duration = Duration::from_millis(500);

/// Whether Redis did not respond.
pub(super) fn is_silence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::IO)
}

/// Whether a cluster node did not execute the command, because its keys are at another node or are being
/// moved.
pub(super) fn is_elsewhere(error: &Error) -> bool {
    error.details() == "Too many redirections." || error.details().starts_with("TRYAGAIN")
}

pub(super) fn cannot_connect(address: &RedisAddress, error: &Error) -> StoreError {
    let fix = match error.kind() {
        ErrorKind::Auth => "check the user and password in REDIS_URL, and the user's ACL",
        ErrorKind::Cluster | ErrorKind::Protocol => {
            "check that the kind of Redis is the one that REDIS_URL names"
        }
        // Redis responds, so its address is correct.
        _ if error.details().starts_with("MISCONF") => {
            "Redis cannot save its data, and refuses everything: its own log gives the reason"
        }
        _ if error.details().contains("max number of clients") => {
            "Redis has as many connections as it accepts: raise its maxclients, or close some of them"
        }
        _ if error.details().starts_with("LOADING") => "Redis is reading its data: try again in a moment",
        _ if error.details().contains("InvalidCertificate") => {
            "its certificate is not one that is trusted for this host name; SSL_CERT_FILE can name a file of the \
             certificates to trust"
        }
        _ => {
            "check REDIS_URL (rediss if Redis expects TLS, redis if not), and that Redis runs and can be reached from here"
        }
    };
    let words = words_of(error);
    let words = words.trim_end_matches([' ', '.']);
    StoreError::Unavailable(format!("cannot connect to {address}: {words}; {fix}"))
}

pub(super) fn unavailable(error: &Error) -> StoreError {
    let reason = match error.kind() {
        ErrorKind::Canceled => "not connected to Redis; a new connection is being made".to_owned(),
        ErrorKind::Backpressure => "Redis does not respond; it is probed a few times per second".to_owned(),
        ErrorKind::Timeout => format!("Redis did not respond within {} ms", COMMAND.as_millis()),
        _ if names_permission(error.details()) => format!(
            "Redis answered {}. Give the user in REDIS_URL this permission (docs/adr/0003-redis-store.md lists all)",
            words_of(error)
        ),
        ErrorKind::IO => format!("the connection to Redis has failed: {}", words_of(error)),
        _ => format!("Redis answered {}", words_of(error)),
    };
    StoreError::Unavailable(reason)
}

/// Whether the error states that a permission is missing, in the wording of Redis 6 to 8 and of Valkey.
pub(super) fn lacks_permission(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(reason) if names_permission(reason))
}

/// Like [`lacks_permission`], for the message of an error from Redis.
pub(super) fn names_permission(said: &str) -> bool {
    ["NOPERM", "ACL failure", "can't run this command", "no permissions"]
        .iter()
        .any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_refuses_is_told_in_its_own_words_with_what_to_do() {
        let address = RedisAddress::parse("redis://localhost").unwrap();
        let error = |said: &'static str| Error::new(ErrorKind::Unknown, said);
        for (said, fix) in [
            ("MISCONF Redis is configured to save RDB snapshots", "its own log gives the reason"),
            ("ERR max number of clients reached", "raise its maxclients"),
            ("LOADING Redis is loading the dataset in memory", "try again in a moment"),
            ("ERR anything else", "check REDIS_URL"),
        ] {
            let told = cannot_connect(&address, &error(said)).to_string();
            assert!(told.contains(&format!(": {said}; ")) && told.contains(fix), "{told}");
            assert!(!told.contains("Unknown Error"), "{told}");
            assert!(fix.starts_with("check") || !told.contains("check REDIS_URL"), "{told}");
        }
        let told = unavailable(&error("READONLY You can't write against a read only replica.")).to_string();
        assert!(
            told.ends_with("Redis answered READONLY You can't write against a read only replica."),
            "{told}"
        );
        let told = unavailable(&error("NOPERM User gate has no permissions to run the 'evalsha' command"));
        assert!(told.to_string().contains("docs/adr/0003-redis-store.md"), "{told}");
        assert!(lacks_permission(&told));
    }
}
