//! HTTP/1.1 as it is written: no path is tidied and no header added, which clients with manners would do.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::support::{Answer, PATIENCE};

/// One connection, which is kept from call to call.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    pub(crate) fn open(url: &str) -> io::Result<Connection> {
        let host = url.trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream), host })
    }

    /// Sends a request and reads its answer, which must tell its length.
    pub(crate) fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        // A server that has heard enough answers and closes before all is sent; the answer is what counts.
        let sent = self.send(method, path, headers, body);
        self.read().map_err(|error| sent.err().unwrap_or(error))
    }

    /// Sends a request and does not wait for its answer.
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.host));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)
    }

    /// `POST` of JSON text.
    pub(crate) fn post(&mut self, path: &str, body: &str) -> io::Result<Answer> {
        self.call("POST", path, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// The connection itself, from which nothing must have been read ahead.
    pub(crate) fn into_stream(self) -> TcpStream {
        assert!(self.stream.buffer().is_empty());
        self.stream.into_inner()
    }

    fn read(&mut self) -> io::Result<Answer> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(invalid)?;
        let mut headers = HeaderMap::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            headers.append(name, HeaderValue::from_str(value).map_err(|_| invalid())?);
        }
        let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let mut body = vec![0; usize::try_from(length.unwrap_or(0)).map_err(|_| invalid())?];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, headers, text: String::from_utf8(body).map_err(|_| invalid())? })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// One request on a connection of its own.
pub(crate) fn call(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let answer = Connection::open(url).and_then(|mut connection| connection.call(method, path, headers, body));
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// `GET` on a connection of its own.
pub(crate) fn get(url: &str, path: &str) -> Answer {
    call(url, "GET", path, &[], b"")
}
