//! One question to name servers: over UDP, and over TCP when the answer is too long.

use krater_model::names::{NameServer, Resolver};
use krater_model::report;
use krater_model::wire::dns::{Answer, AnswerError, Family, MAX_DATAGRAM, Name, Question};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// What came of it; an error says why nobody answered.
pub(super) type Outcome = Result<Answer, String>;

/// Asks one server after the other until one knows.
pub(super) async fn ask(
    servers: &[NameServer],
    name: &Name,
    family: Family,
    resolver: &Resolver,
) -> Outcome {
    let timeout = resolver.timeout.duration();
    let mut last = Err("no name server".to_owned());
    for _ in 0..resolver.attempts {
        for server in servers {
            let said = |why: String| format!("{server}: {why}");
            match one(server.0, name, family, timeout).await {
                Ok(Answer::Failed(code)) => last = Ok(Answer::Failed(code)),
                Ok(Answer::Truncated) => last = Err(said("the answer is too long".into())),
                Ok(answer) => return Ok(answer),
                Err(why) => last = Err(said(why)),
            }
        }
    }
    last
}

async fn one(
    server: SocketAddr,
    name: &Name,
    family: Family,
    timeout: Duration,
) -> Result<Answer, String> {
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| "no randomness".to_owned())?;
    let question = Question {
        id: u16::from_be_bytes(id),
        name: name.clone(),
        family,
    };
    let asking = async {
        match datagram(server, &question).await? {
            Answer::Truncated => stream(server, &question).await,
            answer => Ok(answer),
        }
    };
    match tokio::time::timeout(timeout, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(report(&error)),
        Err(_late) => Err(format!("no answer in {timeout:?}")),
    }
}

/// From a port of its own, which the kernel chooses at random, and from that server alone (RFC 5452).
async fn datagram(server: SocketAddr, question: &Question) -> io::Result<Answer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&question.encode()).await?;
    let mut buffer = vec![0; MAX_DATAGRAM.into()];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match question.read(buffer.get(..length).unwrap_or_default()) {
            Ok(answer) => return Ok(answer),
            Err(AnswerError::Foreign) => {} // the right one may still come
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

/// RFC 7766: a length before each message.
async fn stream(server: SocketAddr, question: &Question) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let message = question.encode();
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], &message].concat();
    stream.write_all(&framed).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    let answer = question.read(&answer);
    answer.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
