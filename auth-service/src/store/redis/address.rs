//! The address of a Redis server or cluster.

use std::fmt;

use fred::prelude::Config;
use fred::types::config::ServerConfig;
use url::Url;

/// A parsed `REDIS_URL`. It includes user and password, but its text forms do not show them.
#[derive(Clone)]
pub struct RedisAddress(Config);

/// The reason why a `REDIS_URL` cannot be used, as the rest of a sentence that begins with the name of the variable. It
/// never contains the URL, which might include a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedisUrl {
    /// The string is not a URL with one of the known schemes.
    #[error(
        "is not the address of a Redis; write it as redis://USER:PASSWORD@HOST:PORT. USER and PASSWORD can be omitted. For \
         a cluster, begin it with redis-cluster://, and for sentinels with redis-sentinel://. For TLS, write rediss in \
         place of redis"
    )]
    Form,
    /// The database is not a number from 0 to 255.
    #[error("must end with a database number from 0 to 255, as in redis://host/1, or without a path")]
    Database,
    /// The URL of a cluster names a database.
    #[error("names a database, but a Redis Cluster has only one; remove the part after the host")]
    ClusterDatabase,
    /// A sentinel URL does not name the service.
    #[error(
        "must name the service that the sentinels watch: redis-sentinel://host:26379?sentinelServiceName=mymaster"
    )]
    Service,
    /// The trusted certificates of the system could not be loaded.
    #[error(
        "requires TLS, but the trusted certificates of the system cannot be read; SSL_CERT_FILE can name a file of them"
    )]
    Certificates,
}

const SCHEMES: [&str; 6] =
    ["redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel", "rediss-sentinel"];

impl RedisAddress {
    /// Reads a URL. The form for one server is `redis://user:password@host:6379/0`. For a cluster it is
    /// `redis-cluster://host:7000`, with further nodes as `?node=host:port`. For sentinels it is
    /// `redis-sentinel://host:26379?sentinelServiceName=name`, with `sentinelUsername` and `sentinelPassword`
    /// if the sentinels need them.
    pub fn parse(text: &str) -> Result<Self, InvalidRedisUrl> {
        let url = Url::parse(text).map_err(|_| InvalidRedisUrl::Form)?;
        if !SCHEMES.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidRedisUrl::Form);
        }
        let database = url.path().trim_start_matches('/');
        let clustered = url.scheme().ends_with("-cluster");
        if !database.is_empty() && clustered {
            return Err(InvalidRedisUrl::ClusterDatabase);
        }
        if !database.is_empty() && database.parse::<u8>().is_err() {
            return Err(InvalidRedisUrl::Database);
        }
        let names_service =
            url.query_pairs().any(|(name, value)| name == "sentinelServiceName" && !value.is_empty());
        if url.scheme().ends_with("-sentinel") && !names_service {
            return Err(InvalidRedisUrl::Service);
        }
        let tls = url.scheme().starts_with("rediss");
        let failed = if tls { InvalidRedisUrl::Certificates } else { InvalidRedisUrl::Form };
        let config = Config::from_url(text).map_err(|_| failed)?;
        Ok(Self(config))
    }

    pub(super) fn config(&self) -> Config {
        self.0.clone()
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.server {
            ServerConfig::Clustered { .. } => "Redis Cluster",
            ServerConfig::Sentinel { .. } => "Redis behind sentinels",
            ServerConfig::Centralized { .. } => "Redis",
        };
        let hosts: Vec<String> = self.0.server.hosts().iter().map(ToString::to_string).collect();
        write!(f, "{kind} at {}", hosts.join(", "))
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_redis_has_its_url() {
        for (url, reads) in [
            ("redis://localhost", "Redis at localhost:6379"),
            ("redis://gate:secret@10.0.0.1:7000/3", "Redis at 10.0.0.1:7000"),
            ("redis-cluster://gate:secret@a:7000?node=b:7001", "Redis Cluster at b:7001, a:7000"),
            (
                "redis-sentinel://gate:secret@a?sentinelServiceName=main&sentinelPassword=other",
                "Redis behind sentinels at a:26379",
            ),
        ] {
            assert_eq!(RedisAddress::parse(url).unwrap().to_string(), reads);
        }
        let address = RedisAddress::parse("redis://gate:p%40ss@h").unwrap().config();
        assert_eq!((address.username.as_deref(), address.password.as_deref()), (Some("gate"), Some("p@ss")));
    }

    #[test]
    fn what_cannot_be_used_says_why_without_the_password() {
        for (url, why) in [
            ("", InvalidRedisUrl::Form),
            ("localhost:6379", InvalidRedisUrl::Form),
            ("http://gate:secret@localhost", InvalidRedisUrl::Form),
            ("redis://gate:secret@", InvalidRedisUrl::Form),
            ("redis://gate:secret@localhost/one", InvalidRedisUrl::Database),
            ("redis-cluster://gate:secret@localhost/1", InvalidRedisUrl::ClusterDatabase),
            ("redis-sentinel://gate:secret@localhost", InvalidRedisUrl::Service),
        ] {
            let error = RedisAddress::parse(url).unwrap_err();
            assert_eq!(error, why, "{url}");
            assert!(!error.to_string().contains("secret"));
        }
        let address = RedisAddress::parse("redis://gate:secret@localhost").unwrap();
        assert!(!format!("{address:?} {address}").contains("secret"));
    }
}
