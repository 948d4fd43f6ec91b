//! `weir.feed.v1.Feed` as tonic would generate it, but for `Subscribe`, which sends messages that are encoded already.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use api::feed::{EdgeMessage, feed_server::FeedServer};
use bytes::{BufMut as _, Bytes};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::{
    Status, Streaming,
    body::Body,
    codec::{Codec, EncodeBuf, Encoder},
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{Feed, Messages};

/// Serves a [`Feed`].
#[derive(Clone)]
pub(crate) struct Server {
    feed: Feed,
    others: FeedServer<Feed>,
}

impl Server {
    pub(crate) fn new(feed: Feed) -> Self {
        // A hello names what the worker holds: some 100 bytes for each tenant.
        Self { others: FeedServer::new(feed.clone()), feed }
    }
}

impl NamedService for Server {
    const NAME: &'static str = <FeedServer<Feed> as NamedService>::NAME;
}

impl Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != "/weir.feed.v1.Feed/Subscribe" {
            return self.others.call(request);
        }
        let subscribe = Subscribe(self.feed.clone());
        Box::pin(async move { Ok(Grpc::new(Encoded).streaming(subscribe, request).await) })
    }
}

struct Subscribe(Feed);

impl StreamingService<EdgeMessage> for Subscribe {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = BoxFuture<'static, Result<tonic::Response<Messages>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<EdgeMessage>>) -> Self::Future {
        let feed = self.0.clone();
        Box::pin(async move { feed.open(request).await })
    }
}

/// Takes messages of protobuf, sends what is encoded already.
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = EdgeMessage;
    type Encoder = Self;
    type Decoder = <ProstCodec<EdgeMessage, EdgeMessage> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<EdgeMessage, EdgeMessage>::default().decoder()
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}
