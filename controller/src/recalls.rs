//! Questions about requests, on their way to the workers that may have answered them, and back.
//!
//! Only the worker that served a request knows what became of it, and nothing of its id says which one that was: all
//! workers are asked, each by the server that feeds it. Questions are rare and asked by people, so they are few at once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{
    feed::{Recall, Recalled, ServerMessage, server_message::Message},
    request::Request,
};
use bytes::Bytes;
use model::{TenantId, WorkerId};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tonic::Status;

/// A worker that does not answer by then is left out: twice what it waits for a busy thread itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Questions at once: each is a message to every worker.
const AT_ONCE: usize = 16;
/// Of these, of one tenant, so that no tenant keeps the others from asking.
const EACH: usize = 4;
/// Questions that wait for one worker's stream; it has room for one message at a time.
const WAITING: usize = AT_ONCE;

/// What was heard about a request.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The worker that answered it, and what it says.
    pub(crate) found: Option<(String, Request)>,
    /// Workers that were asked.
    pub(crate) asked: u32,
    /// Of them, those that did not answer in time.
    pub(crate) silent: u32,
}

/// The workers that have a stream to this server and can be asked.
#[derive(Debug, Default)]
pub(crate) struct Recalls {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    workers: BTreeMap<WorkerId, Asked>,
    /// How many questions each asker has; `None` is whoever asks for all tenants.
    askers: HashMap<Option<TenantId>, usize>,
    /// The number of the last question.
    last: u64,
    questions: HashMap<u64, mpsc::Sender<(WorkerId, Option<Request>)>>,
}

#[derive(Debug)]
struct Asked {
    stream: u64,
    questions: mpsc::Sender<Bytes>,
}

impl Recalls {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is whole before anything can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The questions to a worker from now on, encoded as messages of its stream. An older stream of it gets no more.
    pub(crate) fn join(&self, worker: &WorkerId, stream: u64) -> mpsc::Receiver<Bytes> {
        let (questions, inbox) = mpsc::channel(WAITING);
        self.lock().workers.insert(worker.clone(), Asked { stream, questions });
        inbox
    }

    /// The stream has ended.
    pub(crate) fn leave(&self, worker: &WorkerId, stream: u64) {
        let mut inner = self.lock();
        if inner.workers.get(worker).is_some_and(|asked| asked.stream == stream) {
            inner.workers.remove(worker);
        }
    }

    /// A worker answers.
    pub(crate) fn answer(&self, worker: &WorkerId, answer: Recalled) {
        // An answer that comes too late is nobody's.
        if let Some(waiting) = self.lock().questions.get(&answer.question) {
            waiting.try_send((worker.clone(), answer.request)).ok();
        }
    }

    /// A place for a question about a request of `tenant`'s, or of whoever's.
    ///
    /// # Errors
    /// Too many questions are asked at once.
    pub(crate) fn place(&self, tenant: Option<&TenantId>) -> Result<Place<'_>, Status> {
        let (mut inner, tenant) = (self.lock(), tenant.cloned());
        let all: usize = inner.askers.values().sum();
        let own = inner.askers.get(&tenant).copied().unwrap_or(0);
        if all >= AT_ONCE || own >= EACH {
            return Err(Status::resource_exhausted(
                "too many requests are being asked about at once: try again",
            ));
        }
        inner.askers.insert(tenant.clone(), own + 1);
        Ok(Place { recalls: self, tenant })
    }

    /// Asks all workers; the first that knows the request ends the question.
    async fn ask(&self, request: &str, tenant: Option<&TenantId>) -> Heard {
        let (question, mut answers) = self.put(request, tenant);
        let mut heard = Heard { found: None, asked: question.asked, silent: question.asked };
        let ends = Instant::now() + PATIENCE;
        while heard.silent > 0 && heard.found.is_none() {
            let Ok(Some((worker, answer))) = timeout_at(ends, answers.recv()).await else { break };
            heard.silent -= 1;
            let is_asked = |told: &Request| tenant.is_none_or(|tenant| told.tenant == tenant.as_str());
            heard.found = answer.filter(is_asked).map(|told| (worker.to_string(), told));
        }
        heard
    }

    /// Sends the question to all workers.
    fn put(
        &self,
        request: &str,
        tenant: Option<&TenantId>,
    ) -> (Question<'_>, mpsc::Receiver<(WorkerId, Option<Request>)>) {
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        let recall = Recall {
            question: number,
            request: request.to_owned(),
            tenant: tenant.map(ToString::to_string).unwrap_or_default(),
        };
        let message = Bytes::from(ServerMessage { message: Some(Message::Recall(recall)) }.encode_to_vec());
        let (sender, answers) = mpsc::channel(inner.workers.len().max(1));
        inner.questions.insert(number, sender);
        for worker in inner.workers.values() {
            // A worker whose stream is full will not answer in time, and counts as one that does not.
            worker.questions.try_send(message.clone()).ok();
        }
        let asked = u32::try_from(inner.workers.len()).unwrap_or(u32::MAX);
        (Question { recalls: self, number, asked }, answers)
    }
}

/// A place among the questions that are asked at once.
#[derive(Debug)]
pub(crate) struct Place<'r> {
    recalls: &'r Recalls,
    tenant: Option<TenantId>,
}

impl Place<'_> {
    /// Asks all workers that this server feeds; the first that knows the request ends the question.
    pub(crate) async fn ask(&self, request: &str) -> Heard {
        self.recalls.ask(request, self.tenant.as_ref()).await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut inner = self.recalls.lock();
        if let Some(own) = inner.askers.get_mut(&self.tenant) {
            *own -= 1;
        }
        inner.askers.retain(|_, own| *own > 0);
    }
}

/// A question that waits for its answers.
struct Question<'r> {
    recalls: &'r Recalls,
    number: u64,
    asked: u32,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.recalls.lock().questions.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn worker(name: &str) -> WorkerId {
        name.parse().unwrap()
    }

    fn read(message: &Bytes) -> Recall {
        match ServerMessage::decode(message.as_ref()).unwrap().message {
            Some(Message::Recall(recall)) => recall,
            other => panic!("{other:?}"),
        }
    }

    fn knows(question: u64, tenant: &str) -> Recalled {
        Recalled { question, request: Some(Request { tenant: tenant.to_owned(), ..Request::default() }) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_knows_ends_the_question() {
        let recalls = Recalls::default();
        let mut first = recalls.join(&worker("w-1"), 1);
        let mut second = recalls.join(&worker("w-2"), 2);
        let _silent = recalls.join(&worker("w-3"), 3);
        let acme: TenantId = "acme".parse().unwrap();
        let answering = async {
            let asked = read(&first.recv().await.unwrap());
            assert_eq!((asked.request.as_str(), asked.tenant.as_str()), (ID, "acme"));
            recalls.answer(&worker("w-1"), Recalled { question: asked.question, request: None });
            let asked = read(&second.recv().await.unwrap());
            recalls.answer(&worker("w-2"), knows(asked.question, "acme"));
        };
        let began = Instant::now();
        let (heard, ()) = tokio::join!(recalls.ask(ID, Some(&acme)), answering);
        assert_eq!(heard.found.map(|(worker, _)| worker).as_deref(), Some("w-2"));
        assert_eq!((heard.asked, heard.silent), (3, 1));
        assert!(began.elapsed() < PATIENCE, "nobody waits for the silent one");
        assert!(recalls.lock().questions.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_are_waited_for_only_so_long() {
        let recalls = Recalls::default();
        let _silent = recalls.join(&worker("w-1"), 1);
        let gone = recalls.join(&worker("w-2"), 2);
        drop(gone);
        recalls.leave(&worker("w-2"), 1);
        let heard = recalls.ask(ID, None).await;
        assert_eq!((heard.asked, heard.silent), (2, 2), "an older stream's end is not the worker's");
        recalls.leave(&worker("w-2"), 2);
        let heard = recalls.ask(ID, None).await;
        assert_eq!((heard.asked, heard.silent), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_belongs_to_another_tenant_is_not_told() {
        let recalls = Recalls::default();
        let mut inbox = recalls.join(&worker("w-1"), 1);
        let acme: TenantId = "acme".parse().unwrap();
        let answering = async {
            let asked = read(&inbox.recv().await.unwrap());
            recalls.answer(&worker("w-1"), knows(asked.question, "globex"));
        };
        let (heard, ()) = tokio::join!(recalls.ask(ID, Some(&acme)), answering);
        assert!(heard.found.is_none());
    }

    #[test]
    fn questions_at_once_are_bounded_for_each_tenant_and_for_all() {
        let recalls = Recalls::default();
        let tenants: Vec<TenantId> = (0..5).map(|n| format!("t{n}").parse().unwrap()).collect();
        let mut places: Vec<_> = (0..EACH).map(|_| recalls.place(Some(&tenants[0])).unwrap()).collect();
        assert_eq!(recalls.place(Some(&tenants[0])).unwrap_err().code(), tonic::Code::ResourceExhausted);
        for tenant in &tenants[1..4] {
            places.extend((0..EACH).map(|_| recalls.place(Some(tenant)).unwrap()));
        }
        assert!(recalls.place(Some(&tenants[4])).is_err() && recalls.place(None).is_err());
        places.pop();
        assert!(recalls.place(None).is_ok());
        places.clear();
        assert!(recalls.lock().askers.is_empty());
    }
}
