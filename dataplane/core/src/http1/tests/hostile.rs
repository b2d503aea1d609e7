//! Requests that must be refused. Each cites the clause (RFC and section) that forbids it or lets us
//! refuse it. Columns: case id, clause, bytes, the rule that refuses it.

use super::*;

type Case = (&'static str, &'static str, &'static [u8], Fault);

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    ("cl-te", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", Fault::BothFramings),
    ("te-cl", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST", Fault::BothFramings),
    ("cl-differ", "9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", Fault::ContentLengthSeveral),
    ("cl-same", "9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", Fault::ContentLengthSeveral),
    ("cl-list", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\nabcde", Fault::ContentLengthSeveral),
    ("cl-list-same", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4,4\r\n\r\nabcd", Fault::ContentLengthSeveral),
    ("cl-three", "9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX: y\r\ncontent-length: 4\r\n\r\nabcd", Fault::ContentLengthSeveral),
    ("cl-plus", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd", Fault::ContentLength),
    ("cl-minus", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -4\r\n\r\nabcd", Fault::ContentLength),
    ("cl-hex", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nabcd", Fault::ContentLength),
    ("cl-float", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4.0\r\n\r\nabcd", Fault::ContentLength),
    ("cl-exp", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4e0\r\n\r\nabcd", Fault::ContentLength),
    ("cl-empty", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nabcd", Fault::ContentLength),
    ("cl-space-inside", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4 0\r\n\r\nabcd", Fault::ContentLength),
    ("cl-underscore", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4_0\r\n\r\nabcd", Fault::ContentLength),
    ("cl-word", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: four\r\n\r\nabcd", Fault::ContentLength),
    ("cl-quote", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"4\"\r\n\r\nabcd", Fault::ContentLength),
    ("cl-semicolon", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4;\r\n\r\nabcd", Fault::ContentLength),
    ("cl-obs", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\xa0\r\n\r\nabcd", Fault::ContentLength),
    ("cl-2^63", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\nabcd", Fault::ContentLength),
    ("cl-2^64", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\nabcd", Fault::ContentLength),
    ("cl-2^64+4", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551620\r\n\r\nabcd", Fault::ContentLength),
    ("cl-twenty-zeros", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 00000000000000000004\r\n\r\nabcd", Fault::ContentLength),
    ("cl-brace", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {4}\r\n\r\nabcd", Fault::ContentLength),
    ("cl-tab-inside", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\t4\r\n\r\nabcd", Fault::ContentLength),
    ("cl-nul", "9110 5.5", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\0\r\n\r\nabcd", Fault::ControlByte),
    ("cl-vtab", "9110 5.5", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \x0b4\r\n\r\nabcd", Fault::ControlByte),
    ("cl-space-colon", "9112 5.1", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 4\r\n\r\nabcd", Fault::SpaceBeforeColon),
    ("cl-fold", "9112 5.2", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 4\r\n\r\nabcd", Fault::ObsoleteFold),
    ("te-unknown", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-gzip", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-gzip-chunked", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-chunked-gzip", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", Fault::TransferCodingOrder),
    ("te-twice", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Fault::TransferCodingOrder),
    ("te-identity", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-chunked-identity", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", Fault::TransferCodingOrder),
    ("te-empty", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-comma", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-quoted", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-param", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-trailing-char", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-space-inside", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun ked\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-cow", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-deflate", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: deflate, chunked\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-obs-space", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-apostrophes", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-two-fields", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Fault::TransferCodingOrder),
    ("te-two-fields-x", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: x\r\n\r\n0\r\n\r\n", Fault::TransferCodingOrder),
    ("te-x-first", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Fault::TransferCodingUnknown),
    ("te-http10", "9112 6.1", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Fault::TransferEncodingInHttp10),
    ("te-http10-keepalive", "9112 6.1", b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", Fault::TransferEncodingInHttp10),
    ("te-space-colon", "9112 5.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Fault::SpaceBeforeColon),
    ("te-tab-colon", "9112 5.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", Fault::SpaceBeforeColon),
    ("te-fold", "9112 5.2", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Fault::ObsoleteFold),
    ("te-fold-tab", "9112 5.2", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\tchunked\r\n\r\n0\r\n\r\n", Fault::ObsoleteFold),
    ("te-vtab", "9110 5.5", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Fault::ControlByte),
    ("te-ff", "9110 5.5", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x0c\r\n\r\n0\r\n\r\n", Fault::ControlByte),
    ("te-nul-name", "9110 5.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer\0-Encoding: chunked\r\n\r\n0\r\n\r\n", Fault::ControlByte),
    ("te-lf-hidden", "9112 2.2", b"POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Fault::BareLineFeed),
    ("te-cr-hidden", "9112 2.2", b"POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Fault::BareCarriageReturn),
    ("te-leading-space-line", "9112 5.2", b"POST / HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: a\r\n\r\n0\r\n\r\n", Fault::ObsoleteFold),
    ("chunk-no-digits", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", Fault::ChunkSize),
    ("chunk-minus", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nab", Fault::ChunkSize),
    ("chunk-plus", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na", Fault::ChunkSize),
    ("chunk-0x", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n", Fault::ChunkSize),
    ("chunk-space-before", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\na\r\n", Fault::ChunkSize),
    ("chunk-space-after", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n", Fault::ChunkSize),
    ("chunk-tab-after", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\t\r\na\r\n0\r\n\r\n", Fault::ChunkSize),
    ("chunk-letter", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\ng\r\n", Fault::ChunkSize),
    ("chunk-lf", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", Fault::ChunkSize),
    ("chunk-cr", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\ra\r\n", Fault::ChunkSize),
    ("chunk-huge", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000000000000000\r\na", Fault::ChunkSize),
    ("chunk-2^64", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", Fault::ChunkSize),
    ("chunk-leading-zeros", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000001\r\na\r\n", Fault::ChunkSize),
    ("chunk-nul", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\0\r\na", Fault::ChunkSize),
    ("chunk-ext-lf", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\n", Fault::ChunkExtension),
    ("chunk-ext-nul", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\0\r\n", Fault::ChunkExtension),
    ("chunk-ext-cr", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\rb\r\n", Fault::ChunkSize),
    ("chunk-ext-obs", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\xff\r\n", Fault::ChunkExtension),
    ("chunk-ext-quote-cr", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\"\r\n\"\r\n", Fault::ChunkExtension),
    ("chunk-ext-quote-lf", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\"\n", Fault::ChunkExtension),
    ("chunk-ext-angle", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;<x>\r\n", Fault::ChunkExtension),
    ("chunk-data-long", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", Fault::ChunkEnd),
    ("chunk-data-short", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab\r\n0\r\n\r\n", Fault::ChunkEnd),
    ("chunk-end-lf", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n", Fault::ChunkEnd),
    ("chunk-end-cr", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r0\r\n\r\n", Fault::ChunkEnd),
    ("chunk-end-missing", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na0\r\n\r\n", Fault::ChunkEnd),
    ("chunk-second-bad", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n", Fault::ChunkSize),
    ("chunk-last-lf", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n", Fault::ChunkSize),
    ("chunk-final-lf", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\nGET", Fault::Trailer),
    ("chunk-final-cr", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\rGET", Fault::Trailer),
    ("chunk-trailer-no-colon", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nabc\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-empty-name", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n: x\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-space-name", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na b: x\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-space-colon", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na : x\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-fold", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: x\r\n y\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-lf", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: x\n\r\n", Fault::Trailer),
    ("chunk-trailer-nul", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: \0\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-cr", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: x\ry\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-cl", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-te", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-host", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-xff", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-connection", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nConnection: x\r\n\r\n", Fault::Trailer),
    ("chunk-trailer-cookie", "9112 7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nCookie: x\r\n\r\n", Fault::Trailer),
    ("line-no-version", "9112 3", b"GET /\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-version-09", "9112 3", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Fault::Version),
    ("line-version-12", "9112 3", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Fault::Version),
    ("line-version-2", "9112 3", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Fault::Version),
    ("line-version-lower", "9112 3", b"GET / http/1.1\r\nHost: a\r\n\r\n", Fault::Version),
    ("line-version-long", "9112 3", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-version-space", "9112 3", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-version-plus", "9112 3", b"GET / HTTP/+1.1\r\nHost: a\r\n\r\n", Fault::Version),
    ("line-two-spaces", "9112 3", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-two-spaces-2", "9112 3", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Version),
    ("line-tab", "9112 3", b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-no-target", "9112 3", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-space-in-target", "9112 3", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Version),
    ("line-lead-space", "9112 3", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-method-colon", "9112 3", b"GET: / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-method-brace", "9112 3", b"G{T / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-method-paren", "9112 3", b"(GET) / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-method-obs", "9112 3", b"G\xc3\xa4T / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-method-long", "9112 3", b"ABCDEFGHIJKLMNOPQRSTUVWXY / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::MethodToken),
    ("line-connect", "9112 3", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Connect),
    ("line-connect-path", "9112 3", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Connect),
    ("line-preface", "9112 3", b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n", Fault::Version),
    ("line-asterisk-get", "9112 3", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-authority-get", "9112 3", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-no-slash", "9112 3", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-scheme-ftp", "9112 3", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-scheme-file", "9112 3", b"GET file:///x HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-fragment", "9112 3", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-target-obs", "9112 3", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-userinfo", "9112 3", b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-abs-empty", "9112 3", b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-abs-query", "9112 3", b"GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-abs-other-host", "9112 3", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::HostMismatch),
    ("line-abs-other-port", "9112 3", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::HostMismatch),
    ("line-query-only", "9112 3", b"GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-response", "9112 3", b"HTTP/1.1 200 OK\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-backslash-host", "9112 3", b"GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
    ("line-nul", "9112 3", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::ControlByte),
    ("line-del", "9112 3", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", Fault::ControlByte),
    ("line-cr", "9112 2.2", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareCarriageReturn),
    ("line-lf", "9112 2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Fault::BareLineFeed),
    ("line-two-empty", "9112 2.2", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
    ("line-lf-first", "9112 2.2", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareLineFeed),
    ("tls-hello", "9112 3", b"\x16\x03\x01\x02\0\x01", Fault::ControlByte),
    ("proxy-v1", "9112 3", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Version),
    ("host-none", "9112 3.2", b"GET / HTTP/1.1\r\nX: y\r\n\r\n", Fault::HostMissing),
    ("host-two", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Fault::HostSeveral),
    ("host-two-same", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Fault::HostSeveral),
    ("host-list", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Fault::HostInvalid),
    ("host-comma", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Fault::HostInvalid),
    ("host-userinfo", "9112 3.2", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Fault::HostInvalid),
    ("host-path", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Fault::HostInvalid),
    ("host-query", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", Fault::HostInvalid),
    ("host-space", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Fault::HostInvalid),
    ("host-port-word", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", Fault::HostInvalid),
    ("host-port-two", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", Fault::HostInvalid),
    ("host-port-long", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", Fault::HostInvalid),
    ("host-port-only", "9112 3.2", b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Fault::HostInvalid),
    ("host-v6-open", "9112 3.2", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Fault::HostInvalid),
    ("host-v6-bad", "9112 3.2", b"GET / HTTP/1.1\r\nHost: [x]\r\n\r\n", Fault::HostInvalid),
    ("host-v6-tail", "9112 3.2", b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", Fault::HostInvalid),
    ("host-v6-bare", "9112 3.2", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", Fault::HostInvalid),
    ("host-percent", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a%00b\r\n\r\n", Fault::HostInvalid),
    ("host-quote", "9112 3.2", b"GET / HTTP/1.1\r\nHost: \"a\"\r\n\r\n", Fault::HostInvalid),
    ("host-obs", "9112 3.2", b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n", Fault::HostInvalid),
    ("host-angle", "9112 3.2", b"GET / HTTP/1.1\r\nHost: <a>\r\n\r\n", Fault::HostInvalid),
    ("host-backslash", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", Fault::HostInvalid),
    ("host-fold", "9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Fault::ObsoleteFold),
    ("host-space-colon", "9112 5.1", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Fault::SpaceBeforeColon),
    ("field-no-colon", "9112 5", b"GET / HTTP/1.1\r\nHost: a\r\nabc\r\n\r\n", Fault::FieldName),
    ("field-empty-name", "9112 5", b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", Fault::FieldName),
    ("field-name-space", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\na b: x\r\n\r\n", Fault::FieldName),
    ("field-name-paren", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\na(b): x\r\n\r\n", Fault::FieldName),
    ("field-name-slash", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\na/b: x\r\n\r\n", Fault::FieldName),
    ("field-name-at", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\na@b: x\r\n\r\n", Fault::FieldName),
    ("field-name-obs", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\n\xe4: x\r\n\r\n", Fault::FieldName),
    ("field-name-quote", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\n\"a\": x\r\n\r\n", Fault::FieldName),
    ("field-name-nul", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\na\0b: x\r\n\r\n", Fault::ControlByte),
    ("field-value-nul", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\na: b\0c\r\n\r\n", Fault::ControlByte),
    ("field-value-bell", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\na: \x07\r\n\r\n", Fault::ControlByte),
    ("field-value-del", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\na: \x7f\r\n\r\n", Fault::ControlByte),
    ("field-value-esc", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\na: \x1b[0m\r\n\r\n", Fault::ControlByte),
    ("field-value-cr", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\na: b\rc\r\n\r\n", Fault::BareCarriageReturn),
    ("field-value-crcr", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\na: b\r\r\n\r\n", Fault::BareCarriageReturn),
    ("field-value-lf", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\na: b\nc: d\r\n\r\n", Fault::BareLineFeed),
    ("field-lflf", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\na: b\n\nGET /x HTTP/1.1\r\n\r\n", Fault::BareLineFeed),
    ("field-fold", "9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\na: b\r\n c\r\n\r\n", Fault::ObsoleteFold),
    ("field-fold-tab", "9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\na: b\r\n\tc\r\n\r\n", Fault::ObsoleteFold),
    ("field-fold-empty", "9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\na: b\r\n \r\n\r\n", Fault::ObsoleteFold),
    ("field-space-colon", "9112 5.1", b"GET / HTTP/1.1\r\nHost: a\r\na : b\r\n\r\n", Fault::SpaceBeforeColon),
    ("crlf-cr-lf", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\na: b\r\r\n\r\n", Fault::BareCarriageReturn),
];

#[test]
fn each_is_refused_for_its_reason() {
    let mut wrong = Vec::new();
    for (id, clause, raw, fault) in CASES {
        let got = read(&[raw]);
        if got != Verdict::Refused(*fault) {
            wrong.push(format!("{id} (RFC {clause}): {got:?}, not {fault:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(CASES.len() >= 120, "{}", CASES.len());
}

#[test]
fn cuts_do_not_help() {
    for (id, clause, raw, _) in CASES {
        for at in 0..=raw.len() {
            let (a, b) = raw.split_at(at);
            let got = read(&[a, b]);
            assert!(
                matches!(got, Verdict::Refused(_)),
                "{id} (RFC {clause}) cut at {at}: {got:?}"
            );
        }
        let bytes: Vec<&[u8]> = raw.chunks(1).collect();
        let got = read(&bytes);
        assert!(
            matches!(got, Verdict::Refused(_)),
            "{id} (RFC {clause}) byte by byte: {got:?}"
        );
    }
}

#[test]
fn ids_are_unique_and_statuses_known() {
    let mut ids: Vec<_> = CASES.iter().map(|case| case.0).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), CASES.len());
    for (id, _, _, fault) in CASES {
        assert!([400, 405, 431, 501].contains(&fault.status()), "{id}");
        assert!(!fault.reason().is_empty());
    }
}
