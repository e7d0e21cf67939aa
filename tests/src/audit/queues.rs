//! What waits in the template's queues.

use aws_sdk_sqs::{
    Client,
    config::{Config, Credentials, Region},
    types::QueueAttributeName,
};

use crate::local_aws::workspace_dir;

/// The queues of `template.yaml`.
pub(super) struct Queues {
    client: Client,
    working: Vec<String>,
    dead: Vec<String>,
}

impl Queues {
    /// The queues at this address.
    pub(super) fn of(url: &str) -> Self {
        let config = Config::builder()
            .behavior_version_latest()
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("AKIATEST", "secret", None, None, "test"))
            .endpoint_url(url)
            .build();
        let template =
            std::fs::read_to_string(workspace_dir().join("template.yaml")).expect("it can be read");
        let dead = dead_letter_queues(&template);
        let (dead, working): (Vec<_>, Vec<_>) =
            queues(&template).into_iter().partition(|queue| dead.contains(queue));
        // As the local AWS calls a queue to which the template gives no name.
        let at = |queues: Vec<&str>| {
            queues.into_iter().map(|queue| format!("{url}/000000000000/local-{queue}")).collect()
        };
        Self { client: Client::from_conf(config), working: at(working), dead: at(dead) }
    }

    /// What the queues still hold for their functions.
    pub(super) async fn unfinished(&self) -> Option<String> {
        for queue in &self.working {
            let messages = self.count(queue).await;
            if 0 < messages {
                let name = queue.rsplit('/').next().unwrap_or(queue);
                return Some(format!("{messages} messages in the queue {name}"));
            }
        }
        None
    }

    /// How many messages were given up.
    pub(super) async fn dead_letters(&self) -> usize {
        let mut messages = 0;
        for queue in &self.dead {
            messages += self.count(queue).await;
        }
        messages
    }

    async fn count(&self, queue: &str) -> usize {
        let asked =
            self.client.get_queue_attributes().queue_url(queue).attribute_names(QueueAttributeName::All);
        let attributes =
            asked.send().await.expect("the queue answers").attributes.expect("it has attributes");
        let states = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        states.iter().map(|state| attributes[state].parse::<usize>().expect("a count is a number")).sum()
    }
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
