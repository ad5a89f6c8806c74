//! Finds the headers that a check needs in one pass over all headers, without I/O. Looking them up one by one
//! would be slower: more than a dozen names would be hashed and compared, although most of the headers are
//! missing.

use actix_web::http::header::{HeaderMap, HeaderValue};

use super::error::{CheckError, MAX_LEN};
use super::reserved;

/// Defines, from a single list, the fields and the names of their headers.
macro_rules! fields {
    ($($field:ident = $text:literal),+ $(,)?) => {
        /// A header that a check reads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field { $($field),+ }

        impl Field {
            const ALL: &[Self] = &[$(Self::$field),+];

            /// The name in a header map, in lower case.
            pub(super) const fn as_str(self) -> &'static str {
                match self { $(Self::$field => $text),+ }
            }

            fn of(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$field),)+
                    _ => None,
                }
            }
        }
    };
}

fields! {
    AccessControlRequestHeaders = "access-control-request-headers",
    AccessControlRequestMethod = "access-control-request-method",
    Authorization = "authorization",
    Connection = "connection",
    Dpop = "dpop",
    Host = "host",
    McpMethod = "mcp-method",
    McpName = "mcp-name",
    McpProtocolVersion = "mcp-protocol-version",
    Origin = "origin",
    XForwardedHost = "x-forwarded-host",
    XForwardedMethod = "x-forwarded-method",
    XForwardedPrefix = "x-forwarded-prefix",
    XForwardedProto = "x-forwarded-proto",
    XForwardedUri = "x-forwarded-uri",
    XOriginalMethod = "x-original-method",
    XOriginalUrl = "x-original-url",
}

/// How many times a header was sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Times<'a> {
    #[default]
    Never,
    Once(&'a HeaderValue),
    /// The header is repeated, so two parsers might read different values.
    More,
}

/// The values that were sent for each [`Field`].
#[derive(Debug)]
pub(super) struct CheckHeaders<'a> {
    values: [Times<'a>; Field::ALL.len()],
    /// Whether a server might confuse another header with a reserved one, or `Connection` names a reserved header,
    /// so that a proxy would remove it.
    pub(super) alters_reserved: bool,
}

impl<'a> CheckHeaders<'a> {
    pub(super) fn of(map: &'a HeaderMap) -> Self {
        let mut sent = Self { values: [Times::Never; Field::ALL.len()], alters_reserved: false };
        for (name, value) in map {
            let Some(field) = Field::of(name.as_str()) else {
                sent.alters_reserved |= reserved::is_alias(name.as_str());
                continue;
            };
            // `Connection` can be repeated, because all its values form one list (RFC 9110 §5.3).
            sent.alters_reserved |= field == Field::Connection && reserved::drops_reserved(value);
            if let Some(times) = sent.values.get_mut(field as usize) {
                *times = if matches!(times, Times::Never) { Times::Once(value) } else { Times::More };
            }
        }
        sent
    }

    pub(super) fn times(&self, field: Field) -> Times<'a> {
        self.values.get(field as usize).copied().unwrap_or_default()
    }

    /// The value of a header, or `None` if there is none. A repeated header is an error.
    pub(super) fn single(&self, field: Field) -> Result<Option<&'a str>, CheckError> {
        let malformed = || CheckError::BadHeader(field.as_str());
        match self.times(field) {
            Times::Never => Ok(None),
            Times::Once(value) => value.to_str().map(Some).map_err(|_| malformed()),
            Times::More => Err(malformed()),
        }
    }

    /// Like [`Self::single`], for a header whose value comes from the client. Its length is limited to
    /// [`MAX_LEN`], because it is read before the client is authenticated.
    pub(super) fn short(&self, field: Field) -> Result<Option<&'a str>, CheckError> {
        match self.single(field)? {
            Some(text) if text.len() > MAX_LEN => Err(CheckError::TooLong(field.as_str())),
            text => Ok(text),
        }
    }

    /// The value of a header that the proxy must send.
    pub(super) fn required(&self, field: Field) -> Result<&'a str, CheckError> {
        self.single(field)?.ok_or(CheckError::Missing(field.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderName;

    use super::*;

    #[test]
    fn every_header_is_found_under_its_name_and_no_other() {
        for field in Field::ALL {
            let mut map = HeaderMap::new();
            map.append(HeaderName::from_static(field.as_str()), HeaderValue::from_static("x"));
            let sent = CheckHeaders::of(&map);
            for other in Field::ALL {
                let found = sent.single(*other).unwrap();
                assert_eq!(found, (field == other).then_some("x"), "{field:?} {other:?}");
            }
            map.append(HeaderName::from_static(field.as_str()), HeaderValue::from_static("x"));
            assert!(CheckHeaders::of(&map).single(*field).is_err());
        }
    }
}
