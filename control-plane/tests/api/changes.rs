//! What people change after it was made: stacks, pools, keys, runs.

use serde_json::{Value, json};

use super::harness::Server;

const SET: &str = "mutation($change:StackChangeInput!){stackSet(id:\"net\",change:$change){name,labels,autodeploy,runnerImage,\
     beforePlan,afterPlan,environment{key,value}}}";

async fn with_stack() -> (Server, String) {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    (server, pool)
}

#[tokio::test]
async fn a_stack_is_changed_in_what_is_given_only() {
    let (server, _) = with_stack().await;
    let change = json!({
        "labels": ["prod"], "beforePlan": ["echo plan"], "runnerImage": "runner:2",
        "setEnvironment": [{ "key": "A", "value": "1" }, { "key": "B", "value": "2" }],
    });
    server.ask(SET, json!({ "change": change })).await;
    let change = json!({
        "autodeploy": true, "afterPlan": ["echo planned"], "runnerImage": "",
        "setEnvironment": [{ "key": "A", "value": "3" }], "unsetEnvironment": ["B"],
    });
    let set = server.ask(SET, json!({ "change": change })).await;
    let expected = json!({
        "name": "net", "labels": ["prod"], "autodeploy": true, "runnerImage": null,
        "beforePlan": ["echo plan"], "afterPlan": ["echo planned"],
        "environment": [{ "key": "A", "value": "3" }],
    });
    assert_eq!(set["stackSet"], expected);
    for (change, part) in [
        (json!({ "runnerImage": "my runner" }), "image"),
        (json!({ "name": "two\nlines" }), "line feed"),
        (json!({ "name": "01j00000000000000000000000" }), "looks like an id"),
        (json!({ "unsetEnvironment": ["NONE"] }), "no variable NONE"),
        (json!({ "unsetEnvironment": vec!["A"; 501] }), "more than 500 variables at once"),
        (json!({ "workerPool": "01J00000000000000000000000" }), "not found"),
    ] {
        let said = server.fail(SET, json!({ "change": change })).await;
        assert!(said.contains(part), "{change}: {said}");
    }
}

#[tokio::test]
async fn a_stack_with_a_run_is_not_deleted_and_a_deleted_one_is_seen_by_its_runs_only() {
    let (server, pool) = with_stack().await;
    let run = server.run("net").await;
    let delete = "mutation($destroyResources:Boolean!$id:ID!){stackDelete(id: $id, destroyResources: $destroyResources){id}}";
    let wanted = |destroys: bool| json!({ "id": "net", "destroyResources": destroys });
    let said = server.fail(delete, wanted(false)).await;
    assert!(said.contains("is not over: stop or discard it first"), "{said}");
    let pool_delete = "mutation($id:ID!){workerPoolDelete(id: $id){id,name}}";
    let said = server.fail(pool_delete, json!({ "id": pool })).await;
    assert!(said.contains("is used by net"), "{said}");
    let cancel = "mutation($run:ID!$stack:ID!){runCancel(stack: $stack, run: $run){id}}";
    server.ask(cancel, json!({ "run": run, "stack": "net" })).await;
    let said = server.fail(delete, wanted(true)).await;
    assert!(said.contains("does not destroy"), "{said}");
    server.ask(delete, wanted(false)).await;
    assert_eq!(server.ask("{stack(id:\"net\"){id}}", json!({})).await["stack"], Value::Null);
    assert_eq!(server.ask("{stacks{id}}", json!({})).await["stacks"], json!([]));
    let shown = server.ask("query($id:ID!){run(id:$id){stack{id}}}", json!({ "id": run })).await;
    assert_eq!(shown["run"]["stack"]["id"], "net");
    server.fail("mutation{runTrigger(stack:\"net\"){id}}", json!({})).await;
    server.ask(pool_delete, json!({ "id": pool })).await;
    assert_eq!(server.ask("{workerPools{id}}", json!({})).await["workerPools"], json!([]));
    server.pool("network").await;
}

#[tokio::test]
async fn a_run_that_did_not_end_well_is_retried() {
    let (server, _) = with_stack().await;
    let run = server.run("net").await;
    let retry = "mutation($run:ID!$stack:ID!){runRetry(stack: $stack, run: $run){id}}";
    let of = json!({ "run": run.to_lowercase(), "stack": "net" });
    let said = server.fail(retry, of.clone()).await;
    assert!(said.contains("wait until it is over"), "{said}");
    let stop = "mutation($note:String!$run:ID!$stack:ID!){runStop(stack: $stack, run: $run, note: $note){id,canRetry}}";
    let stopped = server.ask(stop, json!({ "run": run, "stack": "net", "note": "enough" })).await;
    assert_eq!(stopped["runStop"]["canRetry"], true);
    let again = server.ask(retry, of).await["runRetry"]["id"].clone();
    let listed = server.ask("{runs{id,waits{kind,reason,next}}}", json!({})).await;
    assert_eq!(listed["runs"][0]["id"], again);
    assert_eq!(listed["runs"][0]["waits"][0]["kind"], "NO_WORKER");
    assert_eq!(listed["runs"][1]["id"], json!(run));
    let found = |prefix: &str| json!({ "prefix": prefix });
    let query = "query($prefix:String){runs(prefix:$prefix){id}}";
    let one = server.ask(query, found(&run.to_lowercase())).await;
    assert_eq!(one["runs"], json!([{ "id": run }]));
    assert_eq!(server.ask(query, found("%")).await["runs"], json!([]));
    let audit = server.ask("{audit{actor,action,detail}}", json!({})).await;
    let stopped = json!({ "actor": "api::tester", "action": "run.stop", "detail": "enough" });
    assert!(audit["audit"].as_array().unwrap().contains(&stopped), "{audit}");
}

/// What is sealed to the old pool's key is no use to the new one.
#[tokio::test]
async fn a_stack_with_another_pool_needs_its_source_again() {
    let (server, _) = with_stack().await;
    let run = server.run("net").await;
    let stop = "mutation($run:ID!$stack:ID!){runStop(stack: $stack, run: $run){id}}";
    let of = json!({ "run": run, "stack": "net" });
    server.ask(stop, of.clone()).await;
    let (other, _) = server.pool("other").await;
    server.ask(SET, json!({ "change": { "workerPool": other } })).await;
    let retry = "mutation($run:ID!$stack:ID!){runRetry(stack: $stack, run: $run){id}}";
    let said = server.fail(retry, of).await;
    assert!(said.contains("upload the source again"), "{said}");
    let trigger = "mutation{runTrigger(stack:\"net\",runType:TRACKED){id}}";
    let said = server.fail(trigger, json!({})).await;
    assert!(said.contains("no source yet: upload one first"), "{said}");
    server.source("net", b"the same archive").await;
    server.run("net").await;
}

#[tokio::test]
async fn a_key_is_made_listed_and_revoked() {
    let server = Server::start().await;
    let create =
        "mutation($input:ApiKeyInput!){apiKeyCreate(input: $input){id,admin,name,secret,type}}";
    let made = server.ask(create, json!({ "input": { "name": "ci" } })).await;
    let made = &made["apiKeyCreate"];
    let said = server.fail(create, json!({ "input": { "name": "ci" } })).await;
    assert!(said.contains("there is an API key \"ci\" already"), "{said}");
    let login =
        "mutation($id:ID!$secret:String!){apiKeyUser(id: $id, secret: $secret){jwt,validUntil}}";
    let who = json!({ "id": made["id"], "secret": made["secret"] });
    let session = server.ask(login, who.clone()).await;
    assert!(session["apiKeyUser"]["jwt"].is_string());
    let list = "{apiKeys{id,name,description,type,admin,creator,createdAt,lastUsedAt,deleted,teams,teamCount,\
                spaceCount,isMachineUser,expiresAt}}";
    let listed = server.ask(list, json!({})).await;
    let key = listed["apiKeys"].as_array().unwrap().iter().find(|key| key["id"] == made["id"]);
    let key = key.unwrap();
    assert_eq!((&key["name"], &key["creator"]), (&json!("ci"), &json!("api::tester")));
    assert!(key["lastUsedAt"].is_number() && key["deleted"] == false, "{key}");
    let delete = "mutation($id:ID!){apiKeyDelete(id: $id){id,deleted,secret}}";
    let deleted = server.ask(delete, json!({ "id": made["id"] })).await;
    assert_eq!(
        deleted["apiKeyDelete"],
        json!({ "id": made["id"], "deleted": true, "secret": null })
    );
    assert_eq!(server.ask(login, who).await["apiKeyUser"], Value::Null);
    let said = server.fail(delete, json!({ "id": server.key_id })).await;
    assert!(said.contains("last API key"), "{said}");
    server.ask("{viewer{id}}", json!({})).await;
}

#[tokio::test]
async fn a_pool_is_renamed_and_cycled() {
    let (server, pool) = with_stack().await;
    let update = "mutation($description:String!$drift_detection_run_limit:Int!$id:ID!$labels:[String!]$name:String!$space:ID)\
        {workerPoolUpdate(id: $id, name: $name, description: $description, labels: $labels, space: $space, \
        driftDetectionRunLimit: $drift_detection_run_limit){id,config,name,description,labels,space,driftDetectionRunLimit}}";
    let to = json!({ "id": pool, "name": "west", "description": "", "labels": ["a"], "space": null,
        "drift_detection_run_limit": -1 });
    let changed = server.ask(update, to).await;
    assert_eq!(changed["workerPoolUpdate"]["name"], "west");
    let cycle = "mutation($workerPoolId:ID!){workerPoolCycle(id: $workerPoolId)}";
    let cycled = server.ask(cycle, json!({ "workerPoolId": pool.to_lowercase() })).await;
    assert_eq!(cycled["workerPoolCycle"], true);
}

#[tokio::test]
async fn a_task_runs_a_command_in_the_newest_source() {
    let (server, _) = with_stack().await;
    let create = "mutation($command:String!$skip:Boolean){taskCreate(stack:\"net\",command:$command,\
        skipInitialization:$skip){id,type,command,triggeredBy}}";
    let command = "terraform state mv a.b a.c";
    let task = server.ask(create, json!({ "command": command })).await["taskCreate"].take();
    let shown = (&task["type"], &task["command"], &task["triggeredBy"]);
    assert_eq!(shown, (&json!("TASK"), &json!(command), &json!("api::tester")));
    let history = "query($run:ID!){run(id:$run){history{state,username}}}";
    let history = server.ask(history, json!({ "run": task["id"] })).await["run"]["history"].take();
    let expected = json!([
        { "state": "READY", "username": null }, { "state": "QUEUED", "username": "api::tester" },
    ]);
    assert_eq!(history, expected);
    let said = server.fail(create, json!({ "command": "" })).await;
    assert!(said.contains("command: it has 0 characters"), "{said}");
    let said = server.fail(create, json!({ "command": "true", "skip": true })).await;
    assert!(said.contains("initializes before each task"), "{said}");
    let none = "mutation{taskCreate(stack:\"none\",command:\"true\"){id}}";
    assert!(server.fail(none, json!({})).await.contains("not found"));
}

/// What is missing is refused where it is entered, and a run that is not over keeps the tool it began with.
#[tokio::test]
async fn a_custom_tool_is_set_whole_and_not_under_a_run() {
    const TOOL: &str = "mutation($change:StackChangeInput!){stackSet(id:\"net\",change:$change){managesStateFile,\
         vendorConfig{__typename,... on StackConfigVendorCustom{initialize,plan,apply,destroy,changesExitCode,interrupt}}}}";
    let (server, _) = with_stack().await;
    let custom = |custom: Value| json!({ "change": { "vendorConfig": { "custom": custom } } });
    let commands = json!({ "plan": "./plan", "apply": "./apply", "changesExitCode": 3, "interrupt": "SIGTERM" });
    for (wrong, part) in [
        (json!({ "plan": "./plan", "apply": " " }), "needs a command for apply"),
        (json!({ "plan": "", "apply": "./apply" }), "needs a command for plan"),
        (json!({ "plan": "a", "apply": "b", "changesExitCode": 300 }), "from 1 to 125"),
        (json!({ "plan": "a", "apply": "b", "changesExitCode": 0 }), "from 1 to 125"),
    ] {
        let said = server.fail(TOOL, custom(wrong.clone())).await;
        assert!(said.contains(part), "{wrong}: {said}");
    }
    let both = json!({ "change": { "vendorConfig": { "custom": commands, "terraform": {} } } });
    assert!(server.fail(TOOL, both).await.contains("a stack has one tool"));
    let foreign = json!({ "change": { "vendorConfig": { "ansible": { "playbook": "a.yml" } } } });
    assert!(server.fail(TOOL, foreign).await.contains("tools other than"));
    let kept = json!({ "change": { "vendorConfig": { "custom": commands }, "manageState": true } });
    assert!(server.fail(TOOL, kept).await.contains("no state"));

    let set = server.ask(TOOL, custom(commands.clone())).await;
    let expected = json!({
        "managesStateFile": false,
        "vendorConfig": {
            "__typename": "StackConfigVendorCustom", "initialize": null, "plan": "./plan", "apply": "./apply",
            "destroy": null, "changesExitCode": 3, "interrupt": "SIGTERM",
        },
    });
    assert_eq!(set["stackSet"], expected);
    let run = server.run("net").await;
    let terraform = json!({ "change": { "vendorConfig": { "terraform": {} } } });
    let said = server.fail(TOOL, terraform.clone()).await;
    assert!(said.contains(&format!("run {run} of stack net is not over")), "{said}");
    server.ask(TOOL, custom(json!({ "plan": "./plan2", "apply": "./apply" }))).await;
    let cancel = "mutation($run:ID!$stack:ID!){runCancel(stack: $stack, run: $run){id}}";
    server.ask(cancel, json!({ "stack": "net", "run": run })).await;
    let set = server.ask(TOOL, terraform).await;
    assert_eq!(set["stackSet"]["vendorConfig"]["__typename"], "StackConfigVendorTerraform");
    assert_eq!(set["stackSet"]["managesStateFile"], true);
}
