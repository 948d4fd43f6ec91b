//! Recall: what became of a request that some worker answered lately.

use api::{acks as peers, admin as wire};
use tonic::Status;

use super::{Admin, asked_tenant};
use crate::{auth::Principal, recalls::Heard};

pub(super) async fn recall(
    admin: &Admin,
    principal: &Principal,
    request: wire::RecallRequest,
) -> Result<wire::RecallResponse, Status> {
    let tenant = asked_tenant(principal, &request.tenant)?;
    let id = request.request.to_ascii_lowercase();
    if id.len() != 32 || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Status::invalid_argument(
            "a request's id has 32 hexadecimal digits; it is in the answer's x-request-id and in the access log",
        ));
    }
    let place = admin.recalls.place(tenant.as_ref())?;
    let elsewhere = async {
        match &admin.others {
            Some(others) => others.recall(&id, tenant.as_ref()).await,
            None => vec![],
        }
    };
    let (here, elsewhere) = tokio::join!(place.ask(&id), elsewhere);
    let mut answer = of_peer(told(here));
    for there in elsewhere {
        answer.asked += there.asked;
        answer.silent += there.silent;
        // A server of another tenant's mind is not believed.
        let is_asked = |r: &api::request::Request| tenant.as_ref().is_none_or(|t| r.tenant == t.as_str());
        if answer.request.is_none()
            && let Some(request) = there.request.filter(is_asked)
        {
            (answer.request, answer.worker) = (Some(request), there.worker);
        }
    }
    Ok(answer)
}

/// What was heard, as servers tell each other.
pub(crate) fn told(heard: Heard) -> peers::RecallResponse {
    let Heard { found, asked, silent } = heard;
    let (worker, request) = found.unzip();
    peers::RecallResponse { request, worker: worker.unwrap_or_default(), asked, silent }
}

fn of_peer(heard: peers::RecallResponse) -> wire::RecallResponse {
    let peers::RecallResponse { request, worker, asked, silent } = heard;
    wire::RecallResponse { request, worker, asked, silent }
}
