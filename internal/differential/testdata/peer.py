"""Answers appraisal questions with Keylime's Python code: one JSON object a line in, one JSON value a line out."""

import json
import re
import sys

from keylime import cloud_verifier_common, config
from keylime.agentstates import AgentAttestState
from keylime.common import validators
from keylime.ima import ima
from keylime.mba import mba


def event_ids(failure):
    return sorted({event.event_id for event in failure.events})


def life(case):
    """The rounds of one agent, until one fails: a list of event ids for each."""
    agent = case["agent"]
    state = AgentAttestState(agent["agent_id"])
    policy = ima.deserialize_runtime_policy(case["runtime_policy"])
    config.get_config("verifier")["verifier"]["measured_boot_policy_name"] = case["mb_policy_name"]
    outcomes = []
    for turn in case["rounds"]:
        agent["nonce"] = turn["nonce"]
        # The first good round marks the boot log as evaluated; here each round is judged as the first is.
        agent["attestation_count"] = 0
        try:
            failure = cloud_verifier_common.process_quote_response(
                agent, case["mb_policy"], policy, turn["response"], state, case["mb_policy_name"]
            )
        except Exception as error:  # an answer like any other
            outcomes.append([f"exception: {error!r}"])
            break
        outcomes.append(event_ids(failure))
        if failure:
            break
    return outcomes


def policy(case):
    """What an upload of a runtime policy is answered; empty when it is accepted."""
    try:
        ima.verify_runtime_policy(case["text"].encode(), case["key"].encode(), verify_sig=bool(case["key"]))
        ima.validate_runtime_policy(ima.deserialize_runtime_policy(case["text"]))
    except ima.ImaValidationError as error:
        return error.message
    except Exception as error:
        return f"exception: {error!r}"
    return ""


def excludes(case):
    """Which names the patterns exclude; null when they, or one of them by itself, are refused."""
    pattern, refused = validators.valid_exclude_list(case["patterns"])
    if refused or any(validators.valid_regex(each)[1] for each in case["patterns"]):
        return None
    return [bool(pattern.match(name)) for name in case["names"]]


def severity(case):
    """Which event ids the pattern of a severity rule matches; null when it is refused."""
    try:
        pattern = re.compile(case["pattern"])
    except re.error:
        return None
    return [bool(pattern.fullmatch(name)) for name in case["names"]]


KINDS = {"life": life, "policy": policy, "excludes": excludes, "severity": severity}


def main():
    config.get("verifier", "version")
    mba.load_imports()
    for line in sys.stdin:
        case = json.loads(line)
        print(json.dumps(KINDS[case["kind"]](case)), flush=True)


if __name__ == "__main__":
    main()
