//! Objects as users write them, and what can be wrong with them.

use std::fmt;

use model::{Origin, Revision};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::spec::Spec;

/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A file with one or more YAML or JSON documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// As the user knows it; mistakes name it.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `gateway.networking.k8s.io/v1` Gateway: where requests enter.
    Gateway,
    /// `gateway.networking.k8s.io/v1` HTTPRoute: how requests are answered.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// `gateway.networking.k8s.io/v1` GRPCRoute: how gRPC requests are answered.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1` TLSRoute: where TLS goes that is passed on by its server name.
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    /// `gateway.networking.k8s.io/v1alpha2` TCPRoute: where connections go that are passed on by their port.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    /// `gateway.networking.k8s.io/v1alpha2` UDPRoute: where datagrams go that are passed on by their port.
    #[serde(rename = "UDPRoute")]
    UdpRoute,
    /// `gateway.networking.k8s.io/v1beta1` ReferenceGrant: who may refer to this namespace's objects.
    ReferenceGrant,
    /// `gateway.networking.k8s.io/v1` BackendTLSPolicy: TLS to Backends.
    #[serde(rename = "BackendTLSPolicy")]
    BackendTlsPolicy,
    /// `v1` Secret of type `kubernetes.io/tls`: a certificate and its key.
    Secret,
    /// `v1` ConfigMap with the certificates of authorities.
    ConfigMap,
    /// `weir.dev/v1` Backend: endpoints that answer the same requests.
    Backend,
    /// `weir.dev/v1` DirectResponse: a fixed reply, named by an `ExtensionRef` filter.
    DirectResponse,
    /// `weir.dev/v1` ListenerPolicy: what listeners allow beside ordinary requests.
    ListenerPolicy,
    /// `weir.dev/v1` Pool: workers that serve the same addresses. The platform's.
    Pool,
    /// `weir.dev/v1` Tenant: what a tenant is granted. The platform's.
    Tenant,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::Gateway,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::UdpRoute,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::Secret,
        Self::ConfigMap,
        Self::Backend,
        Self::DirectResponse,
        Self::ListenerPolicy,
        Self::Pool,
        Self::Tenant,
    ];

    /// As in an object's `kind`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::UdpRoute => "UDPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Backend => "Backend",
            Self::DirectResponse => "DirectResponse",
            Self::ListenerPolicy => "ListenerPolicy",
            Self::Pool => "Pool",
            Self::Tenant => "Tenant",
        }
    }

    /// The kind of that exact name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The values of `apiVersion` that it is read from; the first is the one to write.
    #[must_use]
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Gateway | Self::HttpRoute => {
                &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"]
            }
            Self::ReferenceGrant => &["gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1"],
            Self::GrpcRoute => &["gateway.networking.k8s.io/v1"],
            Self::TlsRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1alpha3",
                "gateway.networking.k8s.io/v1alpha2",
            ],
            Self::TcpRoute | Self::UdpRoute => {
                &["gateway.networking.k8s.io/v1alpha2", "gateway.networking.k8s.io/v1"]
            }
            Self::BackendTlsPolicy => &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha3"],
            Self::Secret | Self::ConfigMap => &["v1"],
            Self::Backend | Self::DirectResponse | Self::ListenerPolicy | Self::Pool | Self::Tenant => {
                &["weir.dev/v1"]
            }
        }
    }

    /// The API group: `apiVersion` without the version; empty for core kinds.
    #[must_use]
    pub fn group(self) -> &'static str {
        self.api_versions()[0].rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// Whether only the platform's administrators have objects of this kind.
    #[must_use]
    pub fn is_platform(self) -> bool {
        matches!(self, Self::Pool | Self::Tenant)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What names an object in its tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// `default` unless the object says otherwise.
    pub namespace: String,
    /// What it is.
    pub kind: Kind,
    /// Unique in its namespace and kind.
    pub name: String,
}

impl ObjectKey {
    /// The origin of IR nodes that come from `field` of this object.
    #[must_use]
    pub fn origin(&self, field: impl Into<String>) -> Origin {
        Origin {
            kind: self.kind.as_str().to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            field: field.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Where an object was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// The file's name; empty for an object that comes from the store.
    pub file: String,
    /// The line where its document begins, from 1; 0 when unknown.
    pub line: usize,
}

/// An object: valid by itself, though what it refers to may not exist.
#[derive(Clone)]
pub struct Object {
    /// What names it.
    pub key: ObjectKey,
    /// What it says, checked.
    pub spec: Spec,
    /// What the user wrote, verbatim. May hold private keys: never logged.
    pub json: Value,
    /// Where it was read.
    pub source: Source,
    /// When it was first stored, if it was: of two equal routes the older one wins.
    pub created: Option<Revision>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("key", &self.key).field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// Something that a user got wrong: what, where, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mistake {
    /// The file; empty when the object comes from elsewhere.
    pub file: String,
    /// The line of the mistake if the text is malformed, else the line where its document begins; 0 when unknown.
    pub line: usize,
    /// `HTTPRoute default/shop`; empty when the document does not say.
    pub object: String,
    /// `spec.rules[0].matches[0].path.type`; empty for the object as a whole.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do; may be empty where the problem says it all.
    pub fix: String,
}

impl Mistake {
    /// A mistake in `field` of the object `key`, which was read from `source`.
    #[must_use]
    pub fn at(source: &Source, key: &ObjectKey, field: impl Into<String>) -> Self {
        Self {
            file: source.file.clone(),
            line: source.line,
            object: key.to_string(),
            field: field.into(),
            problem: String::new(),
            fix: String::new(),
        }
    }

    /// The same with what is wrong and what to do.
    #[must_use]
    pub fn because(mut self, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        self.problem = problem.into();
        self.fix = fix.into();
        self
    }
}

impl From<model::CompileError> for Mistake {
    fn from(error: model::CompileError) -> Self {
        let object = Origin { field: String::new(), ..error.origin.clone() };
        Self {
            file: String::new(),
            line: 0,
            object: object.to_string(),
            field: error.origin.field,
            problem: error.problem,
            fix: String::new(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            if self.line > 0 {
                write!(f, ":{}", self.line)?;
            }
            f.write_str(": ")?;
        }
        match (self.object.is_empty(), self.field.is_empty()) {
            (true, true) => {}
            (false, true) => write!(f, "{}: ", self.object)?,
            (true, false) => write!(f, "{}: ", self.field)?,
            (false, false) => write!(f, "{} {}: ", self.object, self.field)?,
        }
        f.write_str(&self.problem)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistake {}
