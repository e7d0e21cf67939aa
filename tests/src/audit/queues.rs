//! What waits in the template's queues.

use aws_sdk_sqs::{
    Client,
    config::{Config, Credentials, Region},
    types::QueueAttributeName,
};

use crate::local_aws::workspace_dir;

/// The queues of `template.yaml`.
pub(super) struct Queues {
    working: Vec<String>,
    dead: Vec<String>,
}

impl Queues {
    /// Reads their names.
    pub(super) fn new() -> Self {
        let template =
            std::fs::read_to_string(workspace_dir().join("template.yaml")).expect("it can be read");
        let dead = dead_letter_queues(&template);
        let (dead, working): (Vec<_>, Vec<_>) =
            queues(&template).into_iter().partition(|queue| dead.contains(queue));
        // As the local AWS calls a queue to which the template gives no name.
        let names = |queues: Vec<&str>| queues.into_iter().map(|queue| format!("local-{queue}")).collect();
        Self { working: names(working), dead: names(dead) }
    }

    /// What the queues still hold for their functions.
    pub(super) async fn unfinished(&self, sqs: &str) -> Option<String> {
        let client = client(sqs);
        for queue in &self.working {
            let messages = count(&client, sqs, queue).await;
            if 0 < messages {
                return Some(format!("{messages} messages in the queue {queue}"));
            }
        }
        None
    }

    /// How many messages were given up.
    pub(super) async fn dead_letters(&self, sqs: &str) -> usize {
        let client = client(sqs);
        let mut messages = 0;
        for queue in &self.dead {
            messages += count(&client, sqs, queue).await;
        }
        messages
    }
}

/// A client of SQS at this address.
fn client(sqs: &str) -> Client {
    let config = Config::builder()
        .behavior_version_latest()
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("AKIATEST", "secret", None, None, "test"))
        .endpoint_url(sqs)
        .build();
    Client::from_conf(config)
}

async fn count(client: &Client, sqs: &str, queue: &str) -> usize {
    let url = format!("{sqs}/000000000000/{queue}");
    let asked = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
    let attributes = asked.send().await.expect("the queue answers").attributes.expect("it has attributes");
    let states = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        QueueAttributeName::ApproximateNumberOfMessagesDelayed,
    ];
    states.iter().map(|state| attributes[state].parse::<usize>().expect("a count is a number")).sum()
}

/// The logical ids of the queues.
fn queues(template: &str) -> Vec<&str> {
    let lines: Vec<&str> = template.lines().collect();
    let starts = lines.windows(2).filter(|two| two[1].trim() == "Type: AWS::SQS::Queue");
    starts.map(|two| two[0].trim().trim_end_matches(':')).collect()
}

/// The logical ids of the queues for what is given up.
fn dead_letter_queues(template: &str) -> Vec<&str> {
    let targets = template.split("deadLetterTargetArn: !GetAtt ").skip(1);
    targets.filter_map(|rest| rest.split(['.', '\n']).next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_found_in_a_template() {
        let template = "\
Resources:
  Work:
    Type: AWS::SQS::Queue
    Properties:
      RedrivePolicy:
        deadLetterTargetArn: !GetAtt Dead.Arn
        maxReceiveCount: 3
  Dead:
    Type: AWS::SQS::Queue
  Other:
    Type: AWS::Serverless::Function
";
        assert_eq!(queues(template), ["Work", "Dead"]);
        assert_eq!(dead_letter_queues(template), ["Dead"]);
    }
}
