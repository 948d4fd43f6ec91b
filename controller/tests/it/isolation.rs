//! No tenant reaches another: every method of every service there is, called by one tenant for another.

use api::pki::RoleKind;
use controller::auth::{Need, need_of};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::harness::{GATEWAY, Harness, apply, request, within};

/// Bytes in, bytes out: methods are called by their descriptor.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; bytes::Buf::remaining(buffer)];
        bytes::Buf::copy_to_slice(buffer, &mut bytes);
        Ok(Some(bytes))
    }
}

/// Every method: its path and its descriptor.
fn methods(set: &FileDescriptorSet) -> Vec<(String, MethodDescriptorProto)> {
    let services = set.file.iter().flat_map(|file| file.service.iter().map(move |s| (file.package(), s)));
    services
        .flat_map(|(package, service)| {
            service.method.iter().map(move |method| {
                (format!("/{package}.{}/{}", service.name(), method.name()), method.clone())
            })
        })
        .collect()
}

fn message<'s>(set: &'s FileDescriptorSet, name: &str) -> &'s DescriptorProto {
    let find = |file: &'s prost_types::FileDescriptorProto| {
        let name = name.strip_prefix(&format!(".{}.", file.package()))?;
        file.message_type.iter().find(|m| m.name() == name)
    };
    set.file.iter().find_map(find).unwrap_or_else(|| panic!("no message {name}"))
}

/// A message of that type in which every tenant is `tenant`, and every other text is plausible.
fn naming(set: &FileDescriptorSet, name: &str, tenant: &str) -> Vec<u8> {
    let mut bytes = vec![];
    for field in &message(set, name).field {
        let number = u32::try_from(field.number()).unwrap();
        let value = match (field.r#type(), field.name()) {
            (Type::String, "tenant") => tenant.as_bytes().to_vec(),
            (Type::String, "name") if name.contains("Tenant") => tenant.as_bytes().to_vec(),
            (Type::String, "name") => b"g".to_vec(),
            (Type::String, "kind") => b"Gateway".to_vec(),
            (Type::String, "namespace") => b"default".to_vec(),
            (Type::String, "url") => format!("http://{tenant}.localhost/").into_bytes(),
            (Type::String, "role") => b"admin".to_vec(),
            (Type::String, "content") => GATEWAY.as_bytes().to_vec(),
            // A map: it names nobody.
            (Type::Message, _) if field.type_name().ends_with("Entry") => continue,
            (Type::Message, _) if field.label() == Label::Repeated || field.type_name().contains("Key") => {
                naming(set, field.type_name(), tenant)
            }
            _ => continue,
        };
        prost::encoding::bytes::encode(number, &value, &mut bytes);
    }
    bytes
}

async fn call(channel: &Channel, path: &str, token: Option<&str>, body: Vec<u8>) -> Result<(), Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(body);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    // Unary methods answer a streaming call as well: one message.
    let mut answer = client.server_streaming(request, path.parse().unwrap(), Raw).await?.into_inner();
    within(answer.message()).await.map(drop)
}

#[tokio::test]
async fn every_method_refuses_a_tenant_that_names_another() {
    let harness = Harness::start().await;
    let (_, token) = harness.tenant("acme").await;
    let (beta, _) = harness.tenant("beta").await;
    apply(&beta, "beta", GATEWAY).await;
    let address = harness.admin_address.to_string();
    let channel = api::client::channel(&address, harness.ca.cert_pem(), None).unwrap();
    let set = FileDescriptorSet::decode(api::DESCRIPTORS).unwrap();
    let methods = methods(&set);
    assert!(methods.len() >= 15, "the descriptors are all there: {}", methods.len());

    for (path, method) in &methods {
        assert!(need_of(path).is_some(), "{path}: say in auth::table what it needs");
        let body = naming(&set, method.input_type(), "beta");
        if need_of(path) == Some(Need::Public) {
            // What lets in is in the message, and a bearer token is nothing to it.
            let status = call(&channel, path, Some(&token), body).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{path}: {status:?}");
            continue;
        }
        let status = call(&channel, path, Some(&token), body.clone()).await.unwrap_err();
        assert!(matches!(status.code(), Code::PermissionDenied | Code::NotFound), "{path}: {status:?}");
        // The whole installation is as far away as another tenant.
        let platform = naming(&set, method.input_type(), "platform");
        let status = call(&channel, path, Some(&token), platform).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{path}: {status:?}");
        // And without a token there is nothing at all.
        let status = call(&channel, path, None, body).await.unwrap_err();
        let expected = match need_of(path) {
            Some(Need::Certificate(_)) => Code::PermissionDenied,
            _ => Code::Unauthenticated,
        };
        assert_eq!(status.code(), expected, "{path}: {status:?}");
    }

    // The same calls for the tenant itself are not all refused: the test tests something.
    let get = "/weir.admin.v1.Objects/List";
    let body = naming(&set, ".weir.admin.v1.ListRequest", "acme");
    call(&channel, get, Some(&token), body).await.unwrap();
    let unlisted =
        call(&channel, "/weir.admin.v1.Objects/Steal", Some(&harness.platform_token), vec![]).await;
    assert_eq!(unlisted.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn explain_tells_nothing_of_others_hosts() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    harness.tenant("beta").await;
    let explain = async |host: &str| {
        let url = format!("http://{host}/");
        let request = api::admin::ExplainRequest { tenant: "acme".into(), url, ..Default::default() };
        let answer = acme.objects.clone().explain(request).await.unwrap().into_inner();
        assert!(!answer.matched && answer.tenant.is_empty() && answer.steps.len() == 1, "{answer:?}");
        answer.steps[0].replace(host, "HOST")
    };
    // Not even whether there is such a tenant.
    assert_eq!(explain("beta.localhost").await, explain("gamma.localhost").await);
}

#[tokio::test]
async fn the_feed_is_for_workers_only() {
    let harness = Harness::start().await;
    let address = harness.feed_address.to_string();
    let set = FileDescriptorSet::decode(api::DESCRIPTORS).unwrap();
    for (kind, path, allowed) in [
        (RoleKind::Node, "/weir.admin.v1.Objects/List", false),
        (RoleKind::Server, "/weir.feed.v1.Feed/Subscribe", false),
        (RoleKind::Edge, "/weir.node.v1.Nodes/Reconcile", false),
        (RoleKind::Edge, "/weir.feed.v1.Feed/Subscribe", true),
    ] {
        let identity = harness.identity(kind);
        let channel = api::client::channel(&address, harness.ca.cert_pem(), Some(&identity)).unwrap();
        let body = naming(&set, ".weir.admin.v1.ListRequest", "x");
        let code = call(&channel, path, None, body).await.unwrap_err().code();
        // A worker comes as far as its hello, which this is not.
        assert_eq!(code != Code::PermissionDenied, allowed, "{kind} {path}: {code:?}");
    }
    // Without a certificate there is no connection.
    let channel = api::client::channel(&address, harness.ca.cert_pem(), None).unwrap();
    let mut client = Grpc::new(channel);
    let refused = match client.ready().await {
        Err(_) => true,
        Ok(()) => {
            let path = "/weir.feed.v1.Feed/Subscribe".parse().unwrap();
            client.server_streaming(Request::new(vec![]), path, Raw).await.is_err()
        }
    };
    assert!(refused);
}

#[tokio::test]
async fn no_spelling_of_a_host_takes_it_from_its_tenant() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    harness.tenant("beta").await;
    for host in [
        "beta.localhost",
        "BETA.localhost",
        "beta.localhost.",
        "beta.localhost:80",
        "x.beta.localhost",
        "*.beta.localhost",
        "*.localhost",
        "*.LOCALHOST",
        "*",
        "*.*.localhost",
        "localhost",
        "acme.localhost,beta.localhost",
        "xacme.localhost",
        "gamma.localhost",
        "b\\u0435ta.localhost",
        "xn--bta-qdd.localhost",
        "127.0.0.1",
    ] {
        let listener = GATEWAY.replace("port: 80", &format!("port: 80, hostname: \"{host}\""));
        let route = format!(
            "{GATEWAY}---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  \
             parentRefs: [{{name: g}}]\n  hostnames: [\"{host}\"]\n  rules: [{{}}]\n"
        );
        for content in [listener, route] {
            let status = acme.objects.clone().apply(request("acme", &content)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{host}: {status:?}");
        }
    }
    // And what says no host is for the tenant's own.
    apply(&acme, "acme", GATEWAY).await;
    let world = harness.controller.world().borrow().clone();
    let owner = |host: &str| world.hosts.index.owner(host).map(ToString::to_string);
    assert_eq!(owner("beta.localhost").as_deref(), Some("beta"));
    assert_eq!((owner("localhost"), owner("gamma.localhost")), (None, None));
}
