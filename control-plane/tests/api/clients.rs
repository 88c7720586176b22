//! Queries in the spelling of the public clients: each is answered, with the types that they declare.

use serde_json::{Value, json};

use super::harness::Server;

const W: &str = "{id,config,name,description,labels,space,driftDetectionRunLimit}";

pub const POOL_CREATE: &str = "mutation($csr:String!$description:String!$drift_detection_run_limit:Int!\
    $labels:[String!]$name:String!$space:ID){workerPoolCreate(name: $name, certificateSigningRequest: $csr, \
    description: $description, labels: $labels, space: $space, driftDetectionRunLimit: $drift_detection_run_limit)\
    {id,config,name,description,labels,space,driftDetectionRunLimit}}";
pub const STACK_CREATE: &str = "mutation($input:StackInput!$manageState:Boolean!$slug:String$stackObjectID:String)\
    {stackCreate(input: $input, manageState: $manageState, stackObjectID: $stackObjectID, slug: $slug)\
    {id,administrative,afterApply,autodeploy,beforeInit,branch,description,labels,managesStateFile,name,namespace,\
    projectRoot,repository,runnerImage,space,vendorConfig{__typename,... on StackConfigVendorTerraform{version,workspace}},\
    workerPool{id}}}";
pub const RUN_TRIGGER: &str = "mutation($runtimeConfig:RuntimeConfigInput$sha:String$stack:ID!$type:RunType)\
    {runTrigger(stack: $stack, commitSha: $sha, runType: $type, runtimeConfig: $runtimeConfig){id}}";
const RUN_TRIGGER_FORCED: &str = "mutation($forceApply:ForceApplyMode$runtimeConfig:RuntimeConfigInput$sha:String\
    $stack:ID!$type:RunType!){runTrigger(stack: $stack, commitSha: $sha, runType: $type, \
    runtimeConfig: $runtimeConfig, forceApply: $forceApply){id}}";

#[test]
fn the_schema_is_this_one() {
    insta::assert_snapshot!("schema", gantry_control_plane::http::sdl());
}

/// The provider, the command line tool, the autoscaler and the exporter, about a pool.
#[tokio::test]
async fn pools_are_answered_as_public_clients_ask() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    let read = server
        .ask(&format!("query($id:ID!){{workerPool(id: $id){W}}}"), json!({ "id": pool }))
        .await;
    let read = &read["workerPool"];
    assert_eq!(read["name"], "network");
    assert_eq!(read["driftDetectionRunLimit"], -1);
    let token = gantry_protocol::PoolToken::parse(read["config"].as_str().unwrap()).unwrap();
    assert_eq!(token.pool.to_string(), pool);
    let all = server.ask(&format!("{{workerPools(){W}}}"), json!({})).await;
    assert_eq!(&all["workerPools"][0], read);
    let query = "query($workerPool:ID!){workerPool(id: $workerPool){pendingRuns,workers{id,busy,createdAt,availableAt,drained,metadata}}}";
    let scaler = server.ask(query, json!({ "workerPool": pool })).await;
    assert_eq!(scaler, json!({ "workerPool": { "pendingRuns": 0, "workers": [] } }));
    let query = "{workerPools{id,name,description,pendingRuns,busyWorkers,workers{id}}}";
    assert_eq!(server.ask(query, json!({})).await["workerPools"][0]["busyWorkers"], 0);
    let query = "query($workerPoolId:ID!){workerPool(id: $workerPoolId){id,name,description,createdAt,updatedAt,deleted,\
        spaceDetails{id,name},labels,workersCount,busyWorkers,pendingRuns,managedByK8sController}}";
    let shown = server.ask(query, json!({ "workerPoolId": pool })).await;
    assert_eq!(shown["workerPool"]["spaceDetails"], json!({ "id": "root", "name": "root" }));
}

#[tokio::test]
async fn the_exporter_is_answered_in_one_query() {
    let server = Server::start().await;
    server.pool("network").await;
    let query = "query PrometheusExporter{publicWorkerPool{parallelism busyWorkers pendingRuns} workerPools{id name \
        pendingRuns busyWorkers workers{id drained}} usage{billingPeriodStart billingPeriodEnd usedPrivateMinutes \
        usedPublicMinutes usedSeats} metrics{stacksCountByState{value labels} resourcesCountByDrift{value labels} \
        avgStackSizeByResourceCount{value labels} averageRunDuration{value labels} medianRunDuration{value labels}}}";
    let answer = server.ask(query, json!({})).await;
    assert_eq!(answer["publicWorkerPool"]["parallelism"], 0);
}

#[tokio::test]
async fn what_is_not_there_is_null_or_not_found() {
    let server = Server::start().await;
    let id = "01J00000000000000000000000";
    for query in [
        "query($id:ID!){workerPool(id: $id){id}}",
        "query($id:ID!){stack(id: $id){id,name}}",
        "query($id:ID!){run(id: $id){id}}",
    ] {
        for id in [id, "x", "", "../../etc"] {
            let answer = server.ask(query, json!({ "id": id })).await;
            assert!(answer.as_object().unwrap().values().all(Value::is_null), "{query}");
        }
    }
    let query = "query($runId:ID!){runStack(runId: $runId){id,name}}";
    assert_eq!(server.fail(query, json!({ "runId": id })).await, "not found");
    let query = "mutation($run:ID!$stack:ID!){runConfirm(stack: $stack, run: $run){id}}";
    let message = server.fail(query, json!({ "run": id, "stack": "a" })).await;
    assert_eq!(message, format!("run {id} not found"));
    let query = "mutation($drain:Boolean!$worker:ID!$workerPool:ID!){workerDrainSet(workerPool: $workerPool, id: $worker, drain: $drain){id}}";
    let message =
        server.fail(query, json!({ "worker": id, "workerPool": id, "drain": true })).await;
    assert!(message.contains("not found"), "{message}");
}

#[tokio::test]
async fn stacks_and_runs_are_answered_as_public_clients_ask() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    let run = server.run("net").await;
    let both = json!({ "run": run, "stack": "net" });
    let query = "query($run:ID!$stack:ID!){stack(id: $stack){run(id: $run){history{hasLogs,note,state,stateVersion,terminal,timestamp,username}}}}";
    let history = server.ask(query, both.clone()).await["stack"]["run"]["history"].take();
    assert_eq!(history.as_array().unwrap().last().unwrap()["state"], "QUEUED");
    let query = "query($run:ID!$stack:ID!$state:RunState!$stateVersion:Int!$token:String){stack(id: $stack){run(id: $run)\
        {logs(state: $state, token: $token, stateVersion: $stateVersion){exists,finished,hasMore,messages{message},nextToken}}}}";
    let variables = json!({ "run": run, "stack": "net", "state": "PREPARING", "stateVersion": 0, "token": null });
    assert_eq!(server.ask(query, variables).await["stack"]["run"]["logs"]["exists"], false);
    let query = "query($before:ID$stackId:ID!){stack(id: $stackId){runs(before: $before){id,state,title,commit{authorName,hash},createdAt,triggeredBy,delta{addCount,changeCount,deleteCount}}}}";
    let runs =
        server.ask(query, json!({ "before": null, "stackId": "net" })).await["stack"]["runs"]
            .take();
    assert_eq!(runs[0]["id"], json!(run));
    assert_eq!(runs[0]["title"], "first");
    let query = "query($before:ID$stackId:ID!){stack(id: $stackId){runs(before: $before){id,branch,canRetry,comments{body,createdAt,username},\
        commit{authorLogin,authorName,hash},createdAt,delta{addCount,changeCount,deleteCount,resources},driftDetection,expired,\
        isMostRecent,needsApproval,state,title,triggeredBy}}}";
    let older = server.ask(query, json!({ "before": run, "stackId": "net" })).await;
    assert_eq!(older["stack"]["runs"], json!([]));
    let propose = "mutation($stack:ID!){runTrigger(stack: $stack, runType: PROPOSED){id}}";
    let proposed = server.ask(propose, json!({ "stack": "net" })).await["runTrigger"].take();
    let apart = server.ask("{stack(id:\"net\"){runs{id},proposedRuns{id}}}", json!({})).await;
    assert_eq!(apart["stack"]["runs"], json!([{ "id": run }]));
    assert_eq!(apart["stack"]["proposedRuns"], json!([proposed]));
    let older = query.replace("{runs(", "{proposedRuns(");
    let older = server.ask(&older, json!({ "before": run, "stackId": "net" })).await;
    assert_eq!(older["stack"]["proposedRuns"], json!([]));
    let newest = server.ask(query, json!({ "before": null, "stackId": "net" })).await;
    assert_eq!(newest["stack"]["runs"][0]["isMostRecent"], false, "the proposed one is");
    let query = "query($runId:ID!$stackId:ID!){stack(id: $stackId){runResourceState(id: $runId){id,state,finished}}}";
    let waited = server.ask(query, json!({ "runId": run, "stackId": "net" })).await;
    let state = json!({ "id": run, "state": "READY", "finished": false });
    assert_eq!(waited["stack"]["runResourceState"], state);
    let query = "query($runId:ID!){runStack(runId: $runId){id,name}}";
    assert_eq!(server.ask(query, json!({ "runId": run })).await["runStack"]["id"], "net");
    assert_eq!(
        server.ask("{debugInfo{selfHostedVersion}}", json!({})).await["debugInfo"]["selfHostedVersion"],
        ""
    );
    let query = "mutation($run:ID!$stack:ID!){runCancel(stack: $stack, run: $run){id}}";
    server.ask(query, both).await;
}

#[tokio::test]
async fn what_this_version_does_not_do_is_refused() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    let forced = json!({ "stack": "net", "type": "TRACKED", "forceApply": "SINGLE" });
    let sha = json!({ "stack": "net", "type": "TRACKED", "sha": "abc" });
    let task = json!({ "stack": "net", "type": "TASK" });
    let config = json!({ "stack": "net", "type": "TRACKED", "runtimeConfig": { "yaml": "a: b" } });
    for variables in [forced, sha, task, config] {
        let message = server.fail(RUN_TRIGGER_FORCED, variables).await;
        assert!(message.contains("this version"), "{message}");
    }
    let input = json!({ "name": "x", "branch": "main", "repository": "r", "workerPool": pool, "administrative": true });
    let message = server.fail(STACK_CREATE, json!({ "input": input, "manageState": true })).await;
    assert!(message.contains("administrative"), "{message}");
    let input = json!({ "name": "x", "branch": "main", "repository": "r" });
    let message = server.fail(STACK_CREATE, json!({ "input": input, "manageState": true })).await;
    assert!(message.contains("worker_pool_id is required"), "{message}");
    // Read back it would be -1, and the provider would want to change it for ever.
    for limit in [0, 5] {
        let variables = json!({ "csr": "x", "description": "", "drift_detection_run_limit": limit,
            "name": "limited" });
        let message = server.fail(POOL_CREATE, variables).await;
        assert!(message.contains("drift detection: -1"), "{message}");
    }
}
