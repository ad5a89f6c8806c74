//! A small Redis client that can read all data in Redis, as a thief could.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub(crate) struct Resp(BufReader<TcpStream>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Text(String),
    Number(i64),
    Bytes(Option<Vec<u8>>),
    List(Vec<Reply>),
}

impl Reply {
    pub(crate) fn bytes(self) -> Vec<u8> {
        match self {
            Self::Bytes(Some(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }
}

impl Resp {
    pub(crate) fn connect(port: u16) -> Self {
        Self(BufReader::new(TcpStream::connect(("127.0.0.1", port)).unwrap()))
    }

    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> Reply {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            command.extend_from_slice(word);
            command.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&command).unwrap();
        self.reply()
    }

    /// Lists all keys with `SCAN`, which also works for a large database.
    pub(crate) fn keys(&mut self) -> Vec<Vec<u8>> {
        let (mut keys, mut cursor) = (Vec::new(), b"0".to_vec());
        loop {
            let Reply::List(answer) = self.ask(&[b"SCAN", &cursor]) else { panic!("no list") };
            let [next, Reply::List(some)] = answer.as_slice() else { panic!("no page") };
            keys.extend(some.iter().cloned().map(Reply::bytes));
            cursor = next.clone().bytes();
            if cursor == b"0" {
                return keys;
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn reply(&mut self) -> Reply {
        let line = self.line();
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().unwrap();
        match kind {
            "+" | "-" => Reply::Text(rest.to_owned()),
            ":" => Reply::Number(number()),
            "$" if number() < 0 => Reply::Bytes(None),
            "$" => {
                let mut bytes = vec![0; usize::try_from(number()).unwrap() + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Reply::Bytes(Some(bytes))
            }
            "*" => Reply::List((0..number()).map(|_| self.reply()).collect()),
            _ => panic!("{line}"),
        }
    }
}

/// Whether the first bytes of the server's response to an inline command contain `expected`.
pub(crate) fn says(port: u16, command: &str, expected: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut answer = [0_u8; 2048];
    let read = stream.write_all(command.as_bytes()).and_then(|()| stream.read(&mut answer));
    read.is_ok_and(|read| String::from_utf8_lossy(&answer[..read]).contains(expected))
}
