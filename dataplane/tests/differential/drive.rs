//! Plays a case against a proxy and notes what both sides saw.

use crate::proxies::Lane;
use crate::table::{Case, Step};
use crate::wire::{Kind, Message, find, message};
use socket2::{Domain, Socket, Type};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

/// What a case came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Answers, as the client read them.
    pub(crate) answers: Vec<Message>,
    /// Requests, as the member read them.
    pub(crate) received: Vec<Message>,
    /// The proxy kept silent until the client lost its patience.
    pub(crate) silent: bool,
}

impl Outcome {
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.answers.iter().map(Message::status).collect()
    }

    /// Lines of the requests that reached the member whole.
    pub(crate) fn request_lines(&self) -> Vec<&str> {
        let whole = self.received.iter().filter(|m| !m.cut);
        whole.map(|m| m.start.as_str()).collect()
    }

    /// Lines of those that were cut short.
    pub(crate) fn cut_lines(&self) -> Vec<&str> {
        let cut = self.received.iter().filter(|m| m.cut);
        cut.map(|m| m.start.as_str()).collect()
    }

    /// All that must agree. Of answers that the proxies make themselves the status counts, and that
    /// the connection closes: each has its own words. Whether the beginning of a request that turns out
    /// wrong goes out is a matter of time.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for answer in &self.answers {
            let close = answer.field("connection") == Some("close");
            match own(answer) {
                true => writeln!(text, "proxy: {} close={close}", answer.status()).unwrap(),
                false => write!(text, "{answer}").unwrap(),
            }
        }
        for request in self.received.iter().filter(|m| !m.cut) {
            write!(text, "member: {request}").unwrap();
        }
        text
    }

    /// A few words for the table of differences.
    pub(crate) fn summary(&self) -> String {
        let mut words: Vec<String> = self
            .answers
            .iter()
            .map(|a| match a.cut {
                true => format!("{} cut", a.status()),
                false => a.status().to_string(),
            })
            .collect();
        if words.is_empty() {
            words.push("closed".into());
        }
        words.push(format!("member {}", self.request_lines().len()));
        words.join(", ")
    }
}

/// Whether the proxy made the answer itself.
fn own(answer: &Message) -> bool {
    answer.status() >= 400 && answer.field("x-member").is_none()
}

/// How the bytes of a case go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// As the steps say.
    Whole,
    /// In two pieces, the second from this byte on.
    Split(usize),
    /// Byte by byte.
    Bytes,
}

/// When the client gives up waiting for more and ends its direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// So many final answers are awaited…
    pub(crate) answers: usize,
    /// …and a silence so long is not waited out.
    pub(crate) silence: Duration,
}

/// Plays `case` on `lane`.
pub(crate) fn play(lane: &Lane, case: &Case, how: Delivery, patience: Patience) -> Outcome {
    let stream = connect(lane.address);
    let own = stream.local_addr().unwrap().ip();
    lane.member.begin(own, &case.replies);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(patience.silence)).unwrap();
    let mut client = Client {
        stream,
        bytes: Vec::new(),
        methods: case.methods(),
        finals: 0,
        answers: Vec::new(),
        ended: false,
        gone: false,
        silent: false,
    };
    for step in &case.steps {
        match step {
            Step::Send(bytes) => client.send(bytes, how),
            Step::Wait => {
                let wanted = client.answers.len() + 1;
                client.read(|c| c.answers.len() >= wanted || c.switched());
            }
            Step::End => client.end(),
        }
    }
    let last = |c: &Client| c.answers.last().is_some_and(closes);
    client.read(|c| (c.finals >= patience.answers && !last(c)) || c.switched());
    client.end();
    client.read(|_| false);
    let received = lane.member.received(patience.silence);
    drop(client.stream);
    let received = received.or_else(|| lane.member.received(Duration::from_secs(20)));
    Outcome {
        silent: client.silent,
        answers: client.answers,
        received: received
            .unwrap_or_else(|| panic!("{}: member in the middle of it", case.id))
            .into_iter()
            .map(|request| anonymous(request, own, lane.address))
            .collect(),
    }
}

/// From an address that no other connection of this run has, so that the member can tell them apart.
fn connect(address: SocketAddr) -> TcpStream {
    static NEXT: AtomicU32 = AtomicU32::new(256);
    let [_, high, middle, low] = NEXT.fetch_add(1, SeqCst).to_be_bytes();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let own = Ipv4Addr::new(127, 200 + high, middle, low);
    socket.bind(&SocketAddr::from((own, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

/// The addresses are others each time.
fn anonymous(mut request: Message, client: IpAddr, proxy: SocketAddr) -> Message {
    for value in request.fields.values_mut() {
        *value = value.replace(&client.to_string(), "CLIENT");
        *value = value.replace(&proxy.to_string(), "PROXY");
    }
    request
}

/// Whether the connection ends by the proxy's doing after this answer.
fn closes(answer: &Message) -> bool {
    answer.cut || answer.framing == "until close" || answer.field("connection") == Some("close")
}

struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    methods: Vec<String>,
    /// Final answers so far.
    finals: usize,
    answers: Vec<Message>,
    /// The client has ended its direction.
    ended: bool,
    /// The proxy has.
    gone: bool,
    silent: bool,
}

impl Client {
    fn send(&mut self, bytes: &[u8], how: Delivery) {
        // A proxy that has refused may have closed: what it answered is still to be read.
        match how {
            Delivery::Whole => {
                let _gone = self.stream.write_all(bytes);
            }
            Delivery::Split(at) => {
                let (first, second) = bytes.split_at(at.min(bytes.len()));
                let _gone = self.stream.write_all(first);
                std::thread::yield_now();
                let _gone = self.stream.write_all(second);
            }
            Delivery::Bytes => {
                for byte in bytes {
                    let _gone = self.stream.write_all(&[*byte]);
                    std::thread::yield_now();
                }
            }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        let _gone = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads answers until `enough`, the end, or a silence.
    fn read(&mut self, enough: impl Fn(&Self) -> bool) {
        loop {
            self.parse();
            if enough(self) || self.gone {
                return;
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(n @ 1..) => self.bytes.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.silent = true;
                    self.gone = self.ended;
                    return;
                }
                Ok(_) | Err(_) => self.gone = true,
            }
        }
    }

    /// Whether a tunnel began. Its answer ends with the connection, which ends when the client ends.
    fn switched(&self) -> bool {
        self.bytes.starts_with(b"HTTP/1.1 101 ") && find(&self.bytes, b"\r\n\r\n").is_some()
    }

    fn parse(&mut self) {
        loop {
            let method = self.methods.get(self.finals);
            let head = method.is_some_and(|m| m == "HEAD");
            let kind = Kind::Response { head };
            let Some((answer, used)) = message(&self.bytes, kind, self.gone) else {
                return;
            };
            self.bytes.drain(..used);
            self.finals +=
                usize::from(!matches!(answer.status(), 100..=199) || answer.status() == 101);
            self.answers.push(answer);
        }
    }
}
