//! What is sent: etcd's messages as far as they are needed (`rpc.proto` of etcd 3.4), and one put to either store.

use anyhow::Result;
use api::{
    client::{self, Bearer},
    kv::{Put, TxnRequest, TxnResponse},
};
use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Request, Status, service::Interceptor, transport::Channel};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// Where puts go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) ca_pem: String,
    pub(crate) dialect: Dialect,
}

/// How a put is spelled there.
#[derive(Debug, Clone)]
pub(crate) enum Dialect {
    Weir(Bearer),
    Etcd,
}

impl Target {
    /// A connection of its own, made at its first call. Of both stores by the same code.
    pub(crate) fn connect(&self) -> Result<Caller> {
        let channel = client::channel(&self.address, &self.ca_pem, None)?;
        Ok(Caller { channel, dialect: self.dialect.clone() })
    }

    /// Whether this etcd leads.
    pub(crate) async fn is_etcd_leader(&self) -> Result<bool> {
        let mut caller = self.connect()?;
        let path = "/etcdserverpb.Maintenance/Status";
        let status: StatusResponse = caller.unary(path, StatusRequest {}).await?;
        Ok(status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader))
    }
}

/// A connection; its clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    channel: Channel,
    dialect: Dialect,
}

impl Caller {
    pub(crate) async fn put(&mut self, key: String, value: Bytes) -> Result<(), Status> {
        match self.dialect {
            Dialect::Weir(_) => {
                let txn = TxnRequest { puts: vec![Put { key, value }], ..TxnRequest::default() };
                self.unary::<_, TxnResponse>("/weir.kv.v1.Kv/Txn", txn).await.map(drop)
            }
            Dialect::Etcd => {
                let put = PutRequest { key: key.into(), value };
                self.unary::<_, PutResponse>("/etcdserverpb.KV/Put", put).await.map(drop)
            }
        }
    }

    async fn unary<Q, A>(&mut self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut request = Request::new(());
        if let Dialect::Weir(bearer) = &mut self.dialect {
            request = bearer.call(request)?;
        }
        let (metadata, extensions, ()) = request.into_parts();
        let request = Request::from_parts(metadata, extensions, message);
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(grpc.unary(request, PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}
