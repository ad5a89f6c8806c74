//! The types of options: numbers, sizes and times with their ranges, addresses, lists and others.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser;
use contract::log_filter::LogFilter;
use url::Url;

use super::given::{Given, Wrong, typed};
use super::values;

/// A parser whose value is a `T`.
pub(super) trait Parses<T>: TypedValueParser<Value = Given<T>> {}

impl<T: Clone + Send + Sync + 'static, P: TypedValueParser<Value = Given<T>>> Parses<T> for P {}

/// An address with a port. `port` is the port in the example of the error message.
pub(super) fn address(port: u16) -> impl Parses<SocketAddr> {
    typed(move |text| {
        let why = format!("an address with a port. Write it like 127.0.0.1:{port} or [::1]:{port}.");
        text.parse().map_err(|_| Wrong::is(text, &why, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
    })
}

/// A number in a range.
pub(super) fn number<N>(range: RangeInclusive<u64>) -> impl Parses<N>
where
    N: TryFrom<u64> + Default + Clone + Send + Sync + 'static,
{
    typed(move |text| {
        number_in(text, &range).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            let why = format!("a number from {least} to {most}. Set it within that range.");
            Wrong::is(text, &why, N::default())
        })
    })
}

/// A number in a range, or `auto`, which becomes `None`.
pub(super) fn number_or_auto(range: RangeInclusive<u64>) -> impl Parses<Option<usize>> {
    typed(move |text| match number_in(text, &range) {
        _ if text == "auto" => Ok(None),
        Some(number) => Ok(Some(number)),
        None => {
            let (least, most) = (range.start(), range.end());
            let why = format!(
                "auto or a number from {least} to {most}. Write auto, or a number within that range."
            );
            Err(Wrong::is(text, &why, None))
        }
    })
}

fn number_in<N: TryFrom<u64>>(text: &str, range: &RangeInclusive<u64>) -> Option<N> {
    text.parse().ok().filter(|number| range.contains(number)).and_then(|number| N::try_from(number).ok())
}

/// One of the usual words for true and false.
pub(super) fn boolean() -> impl Parses<bool> {
    typed(|text| {
        values::boolean(text).ok_or_else(|| Wrong {
            instead: false,
            predicates: vec![format!(
                " is `{text}`, which is neither true nor false. Write `true` or `false`."
            )],
        })
    })
}

/// A time in a range.
pub(super) fn time(range: RangeInclusive<Duration>) -> impl Parses<Duration> {
    typed(move |text| {
        contract::duration::parse(text).filter(|time| range.contains(time)).ok_or_else(|| {
            let (least, most) = (values::time_text(*range.start()), values::time_text(*range.end()));
            let why = format!("a time from {least} to {most}. Write it like 500ms, 30s, 5m or 1h.");
            Wrong::is(text, &why, *range.start())
        })
    })
}

/// A size in bytes, in a range.
pub(super) fn size<N>(range: RangeInclusive<u64>) -> impl Parses<N>
where
    N: TryFrom<u64> + Default + Clone + Send + Sync + 'static,
{
    typed(move |text| {
        let size = values::size(text).filter(|size| range.contains(size));
        size.and_then(|size| N::try_from(size).ok()).ok_or_else(|| {
            let (least, most) = (values::size_text(*range.start()), values::size_text(*range.end()));
            let why = format!("a size from {least} to {most}. Write it like 64KiB or 16MiB.");
            Wrong::is(text, &why, N::default())
        })
    })
}

/// A size in bytes of at least `least`, or 0 for no limit.
pub(super) fn size_or_zero(least: u64, most: u64) -> impl Parses<u64> {
    typed(move |text| {
        let size = values::size(text).filter(|size| *size == 0 || (least..=most).contains(size));
        size.ok_or_else(|| {
            let (least, most) = (values::size_text(least), values::size_text(most));
            let why = format!(
                "0 or a size from {least} to {most}. Write it with its unit, like 512MiB or 2GiB, because a number \
                 alone means bytes."
            );
            Wrong::is(text, &why, 0)
        })
    })
}

/// The path of an endpoint.
pub(super) fn endpoint_path() -> impl Parses<String> {
    typed(|text| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
        let is_good = text.starts_with('/')
            && text.bytes().all(is_plain)
            && !text.contains("//")
            && !text.contains("/.");
        let why = "a plain path. Start it with / and use letters, digits, -, _, . and ~ only.";
        if is_good { Ok(text.to_owned()) } else { Err(Wrong::is(text, why, text.to_owned())) }
    })
}

/// An http or https URL, and its exact text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub(super) text: String,
    pub(super) url: Url,
}

/// An http or https URL that `IDENTITY=assertion` needs. `None` means that it is not set, which is a mistake only with
/// that mode.
#[expect(clippy::result_large_err, reason = "the options are read only once")]
pub(super) fn url() -> impl Parses<Option<Address>> {
    typed(|text| {
        if text.is_empty() {
            return Ok(None);
        }
        let url = Url::parse(text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        url.map(|url| Some(Address { text: text.to_owned(), url })).ok_or_else(|| {
            let why = "an http or https URL, but IDENTITY=assertion needs it. Set it to the full URL.";
            Wrong::is(text, why, None)
        })
    })
}

/// A list of values that are separated by commas.
pub(super) fn list() -> impl Parses<Vec<String>> {
    typed(|text| Ok(values::list(text)))
}

/// Host names without ports, or `*`.
pub(super) fn hosts() -> impl Parses<Vec<String>> {
    typed(|text| {
        let hosts = values::list(text);
        let wrong: Vec<String> = hosts
            .iter()
            .filter(|host| *host != "*" && !is_host(host))
            .map(|host| {
                format!(
                    " has `{host}`, which is not a host name. Write only host names, without scheme, port and path, \
                     and separate them with commas."
                )
            })
            .collect();
        if wrong.is_empty() { Ok(hosts) } else { Err(Wrong { instead: hosts, predicates: wrong }) }
    })
}

/// Whether this can be the host in a `Host` header, without its port: a name, an IPv4 address, or an IPv6 address in
/// brackets.
fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    text.split('.').all(|label| !label.is_empty() && label.bytes().all(is_in_names))
}

/// Origins of web pages, or `*`, or only the word `none`, which is an empty list.
pub(super) fn origins() -> impl Parses<Vec<String>> {
    typed(|text| {
        if text == "none" {
            return Ok(Vec::new());
        }
        let (mut origins, mut wrong) = (Vec::new(), Vec::new());
        for entry in values::list(text) {
            match Url::parse(&entry).map(|url| url.origin()) {
                _ if entry == "*" => origins.push(entry),
                Ok(origin)
                    if origin.is_tuple() && origin.ascii_serialization() == entry.to_ascii_lowercase() =>
                {
                    origins.push(origin.ascii_serialization());
                }
                _ => wrong.push(format!(
                    " has `{entry}`, which is not an origin. Write scheme and host, and the port if it is not the usual one, \
                     like https://app.example.com; or only * or none."
                )),
            }
        }
        if wrong.is_empty() { Ok(origins) } else { Err(Wrong { instead: origins, predicates: wrong }) }
    })
}

/// A log filter. `None` means that it is empty.
pub(super) fn log_filter() -> impl Parses<Option<LogFilter>> {
    typed(|text| {
        if text.is_empty() {
            return Ok(None);
        }
        LogFilter::parse(text)
            .map(Some)
            .map_err(|error| Wrong { instead: None, predicates: vec![format!(": {error}")] })
    })
}

/// The path of a file or a directory. `None` means that it is not set.
pub(super) fn path() -> impl Parses<Option<PathBuf>> {
    typed(|text| Ok((!text.is_empty()).then(|| PathBuf::from(text))))
}

/// A text with placeholders. `None` means that it is not set.
pub(super) fn text() -> impl Parses<Option<String>> {
    typed(|text| Ok((!text.is_empty()).then(|| text.to_owned())))
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    /// The result of parsing `text` for an option whose variable is `X`.
    fn read<T: Clone + Send + Sync + 'static>(parser: &impl Parses<T>, text: &str) -> Given<T> {
        let argument = Arg::new("x").env("X");
        parser.parse_ref(&Command::new("test"), Some(&argument), text.as_ref()).unwrap()
    }

    #[test]
    fn each_type_names_its_range_and_how_it_is_written() {
        let problems = [
            read(&address(8081), "here").problems,
            read(&number::<usize>(1..=9), "10").problems,
            read(&number_or_auto(1..=9), "many").problems,
            read(&boolean(), "maybe").problems,
            read(&time(Duration::from_millis(100)..=Duration::from_secs(86_400)), "1y").problems,
            read(&size::<usize>(1024..=1 << 30), "big").problems,
            read(&size_or_zero(16 << 20, 1 << 40), "512").problems,
            read(&endpoint_path(), "mcp").problems,
            read(&url(), "file:///x").problems,
            read(&hosts(), "a:1, b").problems,
            read(&log_filter(), "loud").problems,
        ]
        .concat();
        let expected = [
            "X is `here`, which is not an address with a port. Write it like 127.0.0.1:8081 or [::1]:8081.",
            "X is `10`, which is not a number from 1 to 9. Set it within that range.",
            "X is `many`, which is not auto or a number from 1 to 9. Write auto, or a number within that range.",
            "X is `maybe`, which is neither true nor false. Write `true` or `false`.",
            "X is `1y`, which is not a time from 100ms to 24h. Write it like 500ms, 30s, 5m or 1h.",
            "X is `big`, which is not a size from 1KiB to 1GiB. Write it like 64KiB or 16MiB.",
            "X is `512`, which is not 0 or a size from 16MiB to 1024GiB. Write it with its unit, like 512MiB or 2GiB, because a number alone means bytes.",
            "X is `mcp`, which is not a plain path. Start it with / and use letters, digits, -, _, . and ~ only.",
            "X is `file:///x`, which is not an http or https URL, but IDENTITY=assertion needs it. Set it to the full URL.",
            "X has `a:1`, which is not a host name. Write only host names, without scheme, port and path, and separate them with commas.",
        ];
        assert_eq!(problems.get(..expected.len()).unwrap(), expected);
        assert!(problems[10].starts_with("X: \"loud\" is not a log level."), "{}", problems[10]);
    }

    #[test]
    fn only_what_a_host_header_can_contain_is_a_host() {
        let good = "a, mcp.example.com, my_host-1, 10.0.0.7, [::1], *";
        assert_eq!(read(&hosts(), good).checked(), Ok(&good.split(", ").map(str::to_owned).collect()));
        for wrong in
            ["a b", "a;b", "https://a", "a/x", "a:1", "*.a", "a..b", "[a]", "[::1]:80", "::1", "caf\u{e9}"]
        {
            let problems = read(&hosts(), wrong).problems;
            assert!(problems.concat().contains("is not a host name"), "{wrong}: {problems:?}");
        }
    }

    #[test]
    fn right_values_have_their_types() {
        assert_eq!(read(&address(1), " [::1]:80 ").checked(), Ok(&"[::1]:80".parse().unwrap()));
        assert_eq!(read(&number::<u32>(0..=9), "9").checked(), Ok(&9));
        assert_eq!(read(&number_or_auto(1..=9), "auto").checked(), Ok(&None));
        assert_eq!(read(&number_or_auto(1..=9), "2").checked(), Ok(&Some(2)));
        assert_eq!(read(&size::<u64>(0..=1 << 20), "64 KiB").checked(), Ok(&65_536));
        for (text, bytes) in [("0", 0), ("16MiB", 16 << 20), ("536870912", 512 << 20)] {
            assert_eq!(read(&size_or_zero(16 << 20, 1 << 40), text).checked(), Ok(&bytes), "{text}");
        }
        assert_eq!(
            read(&time(Duration::ZERO..=Duration::MAX), "2m").checked(),
            Ok(&Duration::from_secs(120))
        );
        assert_eq!(
            read(&origins(), "*, HTTPS://a.example").checked(),
            Ok(&vec!["*".into(), "https://a.example".into()])
        );
        for empty in ["", "none"] {
            assert_eq!(read(&origins(), empty).checked(), Ok(&Vec::new()), "{empty:?}");
        }
        assert!(read(&origins(), "none, https://a.example").problems[0].contains("only * or none"));
        assert_eq!(read(&url(), "").checked(), Ok(&None));
        assert_eq!(read(&url(), "http://a/x").checked().unwrap().as_ref().unwrap().text, "http://a/x");
    }
}
