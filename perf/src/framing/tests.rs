use super::*;

/// Events and bodies of a whole stream that comes in pieces of `piece` bytes.
fn read(side: Side, bytes: &[u8], piece: usize) -> Result<(Vec<Event>, Vec<u8>), String> {
    let (mut reader, mut events, mut bodies) = (Reader::new(side), Vec::new(), Vec::new());
    for mut part in bytes.chunks(piece.max(1)) {
        loop {
            match reader.next(&mut part, &mut |b| bodies.extend_from_slice(b)) {
                Err(error) => return Err(format!("{error:#}")),
                Ok(Event::More) => break,
                Ok(event) => events.push(event),
            }
        }
    }
    Ok((events, bodies))
}

#[test]
fn every_split_gives_the_same_messages() {
    let stream = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\
        Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\nrest";
    let whole = read(Side::Answers, stream, stream.len()).unwrap();
    assert_eq!(whole.1, b"helloabc0123456789rest");
    let heads: Vec<_> = whole
        .0
        .iter()
        .filter_map(|e| match e {
            Event::Head(head) => Some((head.status, head.close)),
            _ => None,
        })
        .collect();
    assert_eq!(
        heads,
        [(200, false), (200, false), (204, false), (200, true)]
    );
    assert_eq!(whole.0.iter().filter(|e| **e == Event::End).count(), 3);
    for piece in 1..stream.len() {
        assert_eq!(
            read(Side::Answers, stream, piece).unwrap(),
            whole,
            "{piece}"
        );
    }
}

#[test]
fn requests() {
    let stream = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nExpect: 100-continue\r\n\
        Content-Length: 2\r\n\r\nhiGET /c HTTP/1.0\r\n\r\n";
    let (events, bodies) = read(Side::Requests, stream, 7).unwrap();
    let seen: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::Head(h) => Some((h.method.as_str(), h.path.as_str(), h.expects, h.close)),
            _ => None,
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("GET", "/a", false, false),
            ("POST", "/b", true, false),
            ("GET", "/c", false, true)
        ]
    );
    assert_eq!(bodies, b"hi");
}

#[test]
fn what_is_ambiguous_is_refused() {
    for wrong in [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: +1",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{wrong}\r\n\r\n");
        assert!(
            read(Side::Answers, text.as_bytes(), 4_096).is_err(),
            "{wrong}"
        );
    }
    let chunked =
        |body: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    for wrong in ["x\r\n", "\r\n", "-1\r\n", "1\r\nabc", "1\nabc"] {
        let text = chunked(wrong);
        assert!(
            read(Side::Answers, text.as_bytes(), 4_096).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn hostile_bytes_are_refused_or_bounded_but_never_panic() {
    let mut seed = 7_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let base = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: a, close\r\n\r\n\
        5\r\nhello\r\nffffffffffffffff\r\nx";
    for _ in 0..20_000 {
        let mut bytes = base.to_vec();
        for _ in 0..=random(4) {
            if bytes.len() < 2 {
                break;
            }
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at + 1),
            }
        }
        let piece = 1 + random(bytes.len());
        let (a, b) = (
            read(Side::Answers, &bytes, piece),
            read(Side::Answers, &bytes, bytes.len()),
        );
        assert_eq!(
            a.is_ok(),
            b.is_ok(),
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
        let _neither_panics = read(Side::Requests, &bytes, piece);
    }
    let endless = vec![b'a'; MAX_HEAD * 2];
    assert!(read(Side::Requests, &endless, 1_000).is_err());
}
