//! The object store client against the local colony's S3 endpoint, and against servers that are down, hang or talk nonsense.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the message.

#[path = "common/cut_proxy.rs"]
mod cut_proxy;
#[path = "common/endpoint.rs"]
mod endpoint;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/raw_s3.rs"]
mod raw_s3;
#[path = "common/store_conformance.rs"]
mod store_conformance;

use bytes::Bytes;
use endpoint::Server;
use endpoint::access;
use noise::bytes;
use pollinator::store::Error;
use pollinator::store::Metadata;
use pollinator::store::Patience;
use pollinator::store::Store;
use std::time::Duration;
use std::time::Instant;
use store_conformance::no_progress;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

store_conformance!(Server::start());

fn impatient(endpoint: String) -> Store {
    let patience = Patience { stall: Duration::from_millis(300), attempts: 2, ..Patience::default() };
    Store::with_patience(&access(endpoint, "bucket"), patience).unwrap()
}

/// Every operation of a store, each with the error that it gives.
async fn all_errors(store: &Store) -> Vec<Error> {
    let large = bytes(17 * 1024 * 1024);
    vec![
        store.ensure_bucket().await.unwrap_err(),
        store.head("k").await.unwrap_err(),
        store.put_bytes("k", Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await.unwrap_err(),
        store.put("k", &large[..], large.len() as u64, &Metadata::new(), &no_progress).await.unwrap_err(),
        store.get("k", &mut Vec::new(), &no_progress).await.unwrap_err(),
        store.copy("k", "l").await.unwrap_err(),
        store.list("").await.unwrap_err(),
        store.delete("k").await.unwrap_err(),
    ]
}

#[tokio::test]
async fn a_server_that_is_down_is_unreachable_and_that_is_temporary() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let began = Instant::now();
    for error in all_errors(&impatient(free.to_string())).await {
        assert!(matches!(error, Error::Unreachable { .. }) && error.is_temporary() && error.is_unreachable(), "{error:?}");
        assert!(error.hint().unwrap().contains("AWS_S3_ENDPOINT"));
        assert!(error.to_string().contains(&free.to_string()), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

/// A server that does with each connection what `answer` does.
async fn odd_server<F>(answer: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let address = odd_server(|mut stream| async move {
        // Takes everything, says nothing.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    });
    let store = impatient(address.await);
    for call in [store.head("k").await.unwrap_err(), store.list("").await.unwrap_err()] {
        assert!(matches!(call, Error::Timeout { .. }) && call.is_temporary(), "{call:?}");
    }
    let put = store.put_bytes("k", Bytes::from(bytes(100_000)), &Metadata::new(), &|_| ()).await.unwrap_err();
    assert!(matches!(put, Error::Timeout { .. }), "{put:?}");
}

#[tokio::test]
async fn a_download_that_stands_still_is_given_up() {
    let address = odd_server(|mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\netag: \"e\"\r\n\r\nonly this";
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    });
    let mut back = Vec::new();
    let error = impatient(address.await).get("k", &mut back, &no_progress).await.unwrap_err();
    // The second attempt is answered with the beginning instead of the rest, which is no answer to a Range.
    assert!(matches!(error, Error::Timeout { .. } | Error::Garbage { .. }), "{error:?}");
    assert_eq!(back, b"only this");
}

#[tokio::test]
async fn a_server_that_talks_nonsense_is_an_error() {
    for nonsense in [
        "SSH-2.0-OpenSSH_9.2p1\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 12\r\n\r\n<html></html",
        "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 12\r\n\r\n<html></html",
        "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
    ] {
        let address = odd_server(move |mut stream| async move {
            let mut request = vec![0; 64 * 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(nonsense.as_bytes()).await;
        });
        let store = impatient(address.await);
        let list = store.list("").await.unwrap_err();
        let put = store.put_bytes("k", Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await.unwrap_err();
        for error in [list, put] {
            assert!(!matches!(error, Error::Timeout { .. } | Error::Setup { .. }), "{nonsense:?}: {error:?}");
            assert!(error.to_string().len() < 2000, "{error}");
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full() {
    struct Full(usize);
    impl tokio::io::AsyncWrite for Full {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            data: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            if self.0 == 0 {
                return std::task::Poll::Ready(Err(std::io::Error::from_raw_os_error(libc::ENOSPC)));
            }
            let count = self.0.min(data.len());
            self.0 -= count;
            std::task::Poll::Ready(Ok(count))
        }
        fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }
    let server = Server::start().await;
    let store = Store::new(server.access()).unwrap();
    store.put_bytes("full/object", Bytes::from(bytes(3_000_000)), &Metadata::new(), &|_| ()).await.unwrap();
    let error = store.get("full/object", Full(1_000_000), &no_progress).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }) && !error.is_temporary(), "{error:?}");
    assert!(error.hint().unwrap().contains("space"));
}
