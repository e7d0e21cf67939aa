use super::*;
use crate::local_values::{Addresses, Shell};

/// A template of the kind that is deployed: everything that the reader must understand or step over.
const TEMPLATE: &str = r"
AWSTemplateFormatVersion: '2010-09-09'
Transform: AWS::Serverless-2016-10-31
Parameters:
  StageName: {Type: String, Default: live}
  DatabaseUrl: {Type: String, NoEcho: true}
  Throttle: {Type: String, Default: 10/second}
Conditions:
  HasAlarm: !Equals [!Ref StageName, prod]
Globals:
  Function:
    Runtime: provided.al2023
    Handler: bootstrap
    Timeout: 10
    MemorySize: 256
    Environment:
      Variables:
        LOG_LEVEL: info
        REDIS_URL: !GetAtt Data.Outputs.RedisUrl
Resources:
  Network:
    Type: AWS::CloudFormation::Stack
    Properties: {TemplateURL: infra/network.yaml}
  Data:
    Type: AWS::CloudFormation::Stack
    Properties:
      TemplateURL: infra/data.yaml
      Parameters: {Vpc: !GetAtt Network.Outputs.Vpc}
  Alarm:
    Type: AWS::CloudWatch::Alarm
    Condition: HasAlarm
  Http:
    Type: AWS::Serverless::HttpApi
    Properties:
      CorsConfiguration:
        AllowOrigins: ['https://example.com']
        AllowMethods: [GET, POST]
        AllowHeaders: [authorization, content-type]
        MaxAge: 600
  Socket:
    Type: AWS::Serverless::WebSocketApi
    Properties:
      StageName: !Ref StageName
      IpAddressType: dualstack
      RouteSelectionExpression: $request.body.action
      Auth:
        AuthType: CUSTOM
        AuthArn: !GetAtt Authorize.Arn
        IdentitySource: [route.request.header.Authorization, route.request.querystring.ticket]
      Routes:
        $connect: {FunctionArn: !GetAtt Connect.Arn}
        $default:
          FunctionArn: !Sub '${Message.Arn}'
          IntegrationTimeout: 5000
          RouteResponseSelectionExpression: $default
        ping:
          FunctionArn: !GetAtt Message.Arn
          RouteResponseSelectionExpression: $default
  DefaultRouteResponse:
    Type: AWS::ApiGatewayV2::RouteResponse
    Properties:
      ApiId: !Ref Socket
      RouteId: !Ref SocketDefaultRoute
      RouteResponseKey: $default
  Authorize:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: rust-cargolambda}
    Properties: {CodeUri: functions/authorize}
  Connect:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: functions/connect/}
  Message:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: functions/message
      Timeout: 25
      Environment:
        Variables:
          LOG_LEVEL: debug
          WEBSOCKET_THROTTLE: !Ref Throttle
          CONNECTIONS_URL: !Sub https://${Socket}.execute-api.${AWS::Region}.${AWS::URLSuffix}/${StageName}
          ALARM: !If [HasAlarm, !Ref Alarm, !Ref AWS::NoValue]
      Policies:
        - Statement:
            - {Effect: Allow, Action: execute-api:ManageConnections, Resource: !Sub '${Socket.ApiId}/*'}
  Rooms:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: functions/rooms
      MemorySize: 512
      Environment: {Variables: {DATABASE_URL: !Ref DatabaseUrl}}
      Events:
        List: {Type: HttpApi, Properties: {ApiId: !Ref Http, Path: /rooms, Method: get}}
        One: {Type: HttpApi, Properties: {ApiId: !Ref Http, Path: '/rooms/{room}', Method: ANY, TimeoutInMillis: 5000}}
        Rest: {Type: HttpApi, Properties: {ApiId: !Ref Http}}
        Nightly: {Type: Schedule, Properties: {Schedule: rate(1 day)}}
  OnlyInProduction:
    Type: AWS::Serverless::Function
    Condition: HasAlarm
    Properties: {CodeUri: functions/absent}
Outputs:
  Url: {Value: !GetAtt Http.ApiEndpoint}
";

fn local() -> LocalValues {
    let addresses = Addresses {
        database: Some("postgres://local".into()),
        redis: Some("redis://local".into()),
        management: Some("http://127.0.0.1:3001/live".into()),
        websocket: Some("ws://127.0.0.1:3001/live".into()),
        queues: Some("http://127.0.0.1:4000".into()),
    };
    LocalValues::new(Shell::default(), addresses)
}

fn resolve(text: &str) -> Result<Template> {
    TemplateFile::parse(text)?.resolve(&local())
}

fn template() -> Template {
    resolve(TEMPLATE).expect("the template is good")
}

fn function(name: &str) -> Function {
    template().functions.into_iter().find(|function| function.name == name).expect(name)
}

fn refused(from: &str, to: &str, part: &str) {
    assert!(TEMPLATE.contains(from), "{from}");
    let error = resolve(&TEMPLATE.replace(from, to)).expect_err(to).to_string();
    assert!(error.contains(part), "{error}");
}

#[test]
fn every_function_that_exists_here_is_found_by_its_folder() {
    let names: Vec<_> = template().functions.into_iter().map(|function| function.name).collect();
    assert_eq!(names, ["authorize", "connect", "message", "rooms"]);
}

#[test]
fn globals_are_merged_into_functions_and_give_way_to_their_own() {
    let (message, rooms) = (function("message"), function("rooms"));
    assert_eq!((message.timeout, message.memory_mb), (Duration::from_secs(25), 256));
    assert_eq!((rooms.timeout, rooms.memory_mb), (Duration::from_secs(10), 512));
    assert_eq!(message.environment["LOG_LEVEL"], "debug");
    assert_eq!(rooms.environment["LOG_LEVEL"], "info");
}

#[test]
fn what_lies_outside_this_machine_has_its_local_value() {
    let message = function("message").environment;
    assert_eq!(message["REDIS_URL"], "redis://local");
    assert_eq!(message["CONNECTIONS_URL"], "http://127.0.0.1:3001/live");
    assert_eq!(message["WEBSOCKET_THROTTLE"], "10/second");
    assert!(!message.contains_key("ALARM"), "AWS::NoValue");
    // Even from a parameter without a default.
    assert_eq!(function("rooms").environment["DATABASE_URL"], "postgres://local");
}

#[test]
fn a_function_gets_only_the_addresses_that_the_template_gives_it() {
    assert!(!function("message").environment.contains_key("DATABASE_URL"));
}

#[test]
fn settings_in_the_shell_reach_every_function() {
    let shell = [("LOG_LEVEL", "trace"), ("HTTP_THROTTLE", "unlimited")].into_iter().collect();
    let local =
        LocalValues::new(shell, Addresses { redis: Some("redis://local".into()), ..local_addresses() });
    let template = TemplateFile::parse(TEMPLATE).and_then(|file| file.resolve(&local)).expect("good");
    for function in template.functions {
        assert_eq!(function.environment["LOG_LEVEL"], "trace", "{}", function.name);
        assert_eq!(function.environment["HTTP_THROTTLE"], "unlimited", "{}", function.name);
    }
}

fn local_addresses() -> Addresses {
    Addresses { database: Some("postgres://local".into()), ..Addresses::default() }
}

#[test]
fn the_http_api_has_a_route_for_each_event() {
    let api = template().http_api.expect("there");
    let routes: Vec<_> =
        api.routes.iter().map(|route| (route.key.as_str(), route.function.as_str())).collect();
    assert_eq!(routes, [("GET /rooms", "rooms"), ("ANY /rooms/{room}", "rooms"), ("$default", "rooms")]);
    assert_eq!(api.routes[0].integration_timeout, Duration::from_secs(30));
    assert_eq!(api.routes[1].integration_timeout, Duration::from_secs(5));
    assert_eq!(api.stage, "$default");
    let cors = api.cors.expect("configured");
    assert_eq!(cors.allow_origins, ["https://example.com"]);
    assert_eq!((cors.max_age, cors.allow_credentials), (Some(600), false));
}

#[test]
fn the_websocket_api_has_its_routes_and_its_authorizer() {
    let api = template().websocket_api.expect("there");
    assert_eq!((api.logical_id.as_str(), api.stage.as_str()), ("Socket", "live"));
    assert_eq!(api.route_selection_expression, "$request.body.action");
    assert_eq!(api.routes["$connect"].function, "connect");
    assert_eq!(api.routes["$default"].integration_timeout, Duration::from_secs(5));
    assert_eq!(api.routes["$connect"].integration_timeout, Duration::from_secs(29));
    let authorizer = api.authorizer.expect("configured");
    assert_eq!(authorizer.function, "authorize");
    let sources =
        [IdentitySource::Header("Authorization".into()), IdentitySource::QueryString("ticket".into())];
    assert_eq!(authorizer.identity_sources, sources);
}

#[test]
fn an_answer_goes_back_only_with_both_the_expression_and_the_route_response() {
    let routes = template().websocket_api.expect("there").routes;
    assert!(routes["$default"].route_response);
    assert!(!routes["ping"].route_response, "it has no AWS::ApiGatewayV2::RouteResponse");
    let without = TEMPLATE.replace(
        "          IntegrationTimeout: 5000\n          RouteResponseSelectionExpression: $default\n",
        "",
    );
    let routes = resolve(&without).expect("good").websocket_api.expect("there").routes;
    assert!(!routes["$default"].route_response, "it has no RouteResponseSelectionExpression");
}

#[test]
fn what_the_stores_and_the_urls_need_is_known_before_anything_is_resolved() {
    let file = TemplateFile::parse(TEMPLATE).expect("readable");
    assert_eq!(file.websocket_stage().expect("resolved").as_deref(), Some("live"));
    let names = file.environment_names().expect("read");
    assert!(names.contains("DATABASE_URL") && names.contains("REDIS_URL"), "{names:?}");
}

#[test]
fn a_template_without_apis_is_read_as_well() {
    let template =
        resolve("Resources: {A: {Type: AWS::Serverless::Function, Properties: {CodeUri: functions/a}}}");
    let template = template.expect("good");
    assert_eq!((template.http_api, template.websocket_api), (None, None));
    assert_eq!(template.functions[0].timeout, DEFAULT_TIMEOUT);
}

#[test]
fn an_event_that_names_no_api_makes_the_implicit_one() {
    let text = r"
Resources:
  A:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: functions/a, Events: {All: {Type: HttpApi, Properties: {Path: '/{proxy+}', Method: '*'}}}}
";
    let api = resolve(text).expect("good").http_api.expect("there");
    assert_eq!((api.logical_id.as_str(), api.routes[0].key.as_str()), ("ServerlessHttpApi", "ANY /{proxy+}"));
}

/// Two queues and a function that is called for what is in the first.
const QUEUES: &str = r"
Resources:
  Work:
    Type: AWS::SQS::Queue
    Properties:
      QueueName: !Sub '${AWS::StackName}-work'
      VisibilityTimeout: 60
      MessageRetentionPeriod: 1209600
      DelaySeconds: 2
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 3}
  Dead: {Type: AWS::SQS::Queue}
  Worker:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: functions/worker
      Timeout: 10
      Environment: {Variables: {URL: !Ref Work, ARN: !GetAtt Work.Arn, NAME: !Sub '${Dead.QueueName}'}}
      Events:
        Work:
          Type: SQS
          Properties:
            Queue: !GetAtt Work.Arn
            BatchSize: 100
            MaximumBatchingWindowInSeconds: 1
            FunctionResponseTypes: [ReportBatchItemFailures]
            ScalingConfig: {MaximumConcurrency: 2}
        Dead: {Type: SQS, Properties: {Queue: !GetAtt Dead.Arn}}
        Off: {Type: SQS, Properties: {Queue: !GetAtt Dead.Arn, Enabled: false}}
";

#[test]
fn queues_have_their_settings_and_those_of_sqs_otherwise() {
    let queues = resolve(QUEUES).expect("good").queues;
    let seconds = Duration::from_secs;
    let redrive = Redrive { queue: "local-Dead".into(), max_receive_count: 3 };
    let work = Queue {
        logical_id: "Work".into(),
        name: "local-work".into(),
        visibility_timeout: seconds(60),
        retention: seconds(1_209_600),
        delay: seconds(2),
        receive_wait: seconds(0),
        max_message_bytes: 1_048_576,
        redrive: Some(redrive),
    };
    let dead = Queue {
        logical_id: "Dead".into(),
        name: "local-Dead".into(),
        visibility_timeout: seconds(30),
        retention: seconds(345_600),
        delay: seconds(0),
        redrive: None,
        ..work.clone()
    };
    assert_eq!(queues, [dead, work]);
}

#[test]
fn a_function_is_called_for_the_queues_of_its_events_that_are_enabled() {
    let sources = resolve(QUEUES).expect("good").event_sources;
    let work = EventSource {
        queue: "local-work".into(),
        function: "worker".into(),
        batch_size: 100,
        window: Duration::from_secs(1),
        reports_failures: true,
        max_concurrency: Some(2),
    };
    let dead = EventSource {
        queue: "local-Dead".into(),
        function: "worker".into(),
        batch_size: 10,
        window: Duration::ZERO,
        reports_failures: false,
        max_concurrency: None,
    };
    assert_eq!(sources, [dead, work]);
}

#[test]
fn a_function_is_told_where_the_queues_are() {
    let environment = resolve(QUEUES).expect("good").functions.remove(0).environment;
    assert_eq!(environment["URL"], "http://127.0.0.1:4000/000000000000/local-work");
    assert_eq!(environment["ARN"], "arn:aws:sqs:us-east-1:000000000000:local-work");
    assert_eq!(environment["NAME"], "local-Dead");
    assert_eq!(environment["AWS_ENDPOINT_URL_SQS"], "http://127.0.0.1:4000");
    let nowhere = LocalValues::new(Shell::default(), Addresses::default());
    let template =
        TemplateFile::parse("Resources: {A: {Type: AWS::Serverless::Function, Properties: {CodeUri: f/a}}}");
    let template = template.and_then(|file| file.resolve(&nowhere)).expect("good");
    assert!(template.functions[0].environment.is_empty(), "there are no queues");
}

#[test]
fn what_lambda_or_sqs_would_refuse_of_a_queue_is_refused() {
    let refused = |from: &str, to: &str, part: &str| {
        assert!(QUEUES.contains(from), "{from}");
        let error = resolve(&QUEUES.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(
        "VisibilityTimeout: 60",
        "VisibilityTimeout: 9",
        "(9 s) is less than the function's Timeout (10 s)",
    );
    refused("VisibilityTimeout: 60", "VisibilityTimeout: 43201", "43201 is not within 0 and 43200");
    refused("VisibilityTimeout: 60", "FifoQueue: true", "only standard queues");
    refused("DelaySeconds: 2", "DelaySeconds: 901", "901 is not within 0 and 900");
    refused(
        "MaximumBatchingWindowInSeconds: 1",
        "MaximumBatchingWindowInSeconds: 0",
        "BatchSize: more than 10",
    );
    refused("BatchSize: 100", "BatchSize: 10001", "BatchSize: not within");
    refused("Queue: !GetAtt Work.Arn", "Queue: !GetAtt Worker.Arn", "is no queue of this template");
    refused("!GetAtt Dead.Arn, max", "!GetAtt Work.Arn, max", "`local-work` is no other queue");
    refused("!Sub '${AWS::StackName}-work'", "local-Dead", "two queues of the name `local-Dead`");
    refused("!Sub '${AWS::StackName}-work'", "work.fifo", "`work.fifo` is no name");
    refused("[ReportBatchItemFailures]", "[Everything]", "only [ReportBatchItemFailures]");
    refused("MaximumConcurrency: 2", "MaximumConcurrency: 1", "MaximumConcurrency: not within 2");
}

#[test]
fn what_cannot_be_done_here_is_refused_with_its_place() {
    refused("ApiId: !Ref Http, Path: /rooms,", "ApiId: !Ref Htpp, Path: /rooms,", "Resources.Htpp");
    refused(
        "StageName: !Ref StageName",
        "StageName: !Ref Data",
        "Resources.Socket.Properties.StageName: !Ref Data",
    );
    refused("AuthArn: !GetAtt Authorize.Arn", "AuthArn: arn:x", "Resources.Socket.Properties.Auth.AuthArn");
    refused("AuthType: CUSTOM", "AuthType: AWS_IAM", "AWS_IAM is not supported here");
    refused("route.request.querystring.ticket", "context.identity", "IdentitySource: `context.identity`");
    refused("IntegrationTimeout: 5000", "IntegrationTimeout: 30000", "IntegrationTimeout: at most 29,000 ms");
    refused("MemorySize: 512", "MemorySize: much", "Resources.Rooms.Properties.MemorySize: `much`");
    refused("CodeUri: functions/rooms", "CodeUri: {Bucket: b, Key: k}", "Resources.Rooms.Properties.CodeUri");
    refused("CodeUri: functions/rooms", "CodeUri: functions/message", "two functions have the same folder");
    refused(
        "WEBSOCKET_THROTTLE: !Ref Throttle",
        "WEBSOCKET_THROTTLE: !GetAtt Data.Outputs.Throttle",
        "Resources.Message.Properties.Environment.Variables.WEBSOCKET_THROTTLE: !GetAtt Data.Outputs.Throttle",
    );
}

#[test]
fn a_file_that_is_no_template_is_refused() {
    let error = TemplateFile::parse("just text").expect_err("no template").to_string();
    assert!(error.contains("a template is a mapping"), "{error}");
    let error = TemplateFile::parse("a: b").expect_err("no template").to_string();
    assert!(error.contains("it has no `Resources`"), "{error}");
}
