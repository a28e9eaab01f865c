//! What a user of NATS may not do, as the server says it.

use std::time::Duration;

use async_nats::{Client, Event};
use tokio::sync::mpsc;

use super::stand::{PASSWORD, Stand, Without};

/// Tries what should be refused, and hears the server's refusals.
pub struct Tries {
    client: Client,
    refusals: mpsc::Receiver<String>,
}

impl Tries {
    pub async fn of(stand: &Stand, user: &str, inbox_prefix: &str) -> Self {
        let (told, refusals) = mpsc::channel(64);
        let options =
            async_nats::ConnectOptions::with_user_and_password(user.to_owned(), PASSWORD.to_owned())
                .custom_inbox_prefix(inbox_prefix)
                .event_callback(move |event| {
                    if let Event::ServerError(error) = event {
                        let _ = told.try_send(error.to_string());
                    }
                    std::future::ready(())
                });
        let client = options.connect(stand.url()).await.expect("it may connect");
        Self { client, refusals }
    }

    pub async fn all_refused(&mut self, subjects: &[String]) {
        assert!(subjects.len() > 100, "{}", subjects.len());
        for subject in subjects {
            self.refused(subject).await;
        }
    }

    pub async fn refused(&mut self, subject: &str) {
        self.client.publish(subject.to_owned(), "{}".into()).await.expect("it is sent");
        self.hears(&format!("Publish to \"{subject}\"")).await;
    }

    pub async fn subscription_refused(&mut self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.expect("it is sent");
        self.hears(&format!("Subscription to \"{subject}\"")).await;
    }

    async fn hears(&mut self, what: &str) {
        let heard = tokio::time::timeout(Duration::from_secs(5), self.refusals.recv()).await;
        let heard = heard.unwrap_or_else(|_| panic!("not refused: {what}")).expect("the client runs");
        assert!(heard.contains("Permissions Violation") && heard.contains(what), "{what}: {heard}");
    }

    /// What a right on a subject is for is done, and is not refused.
    pub async fn taken(&mut self, verb: &str, subject: &str) {
        match verb {
            "publish" => self.client.publish(example(subject), "{}".into()).await.expect("it is sent"),
            _ => drop(self.client.subscribe(subject.to_owned()).await.expect("it is sent")),
        }
        // the server has read it when it answers
        self.client.flush().await.expect("it answers");
        let refused = self.refusals.try_recv();
        assert!(refused.is_err(), "{verb} on {subject}: {refused:?}");
    }

    /// Without the right it is refused by its name.
    pub async fn missed(&mut self, without: &Without) {
        match without.verb {
            "publish" => self.refused(&example(&without.subject)).await,
            _ => self.subscription_refused(&without.subject).await,
        }
    }
}

/// A subject that this one covers.
fn example(subject: &str) -> String {
    subject.replace(['*', '>'], "x")
}
