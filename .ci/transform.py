"""Transforms template.yaml as AWS does and checks what comes out.

`sam validate --lint` looks at what is written; CloudFormation gets what the transform makes of it, and refuses a deploy
whose resources refer to each other in a circle or to something that is not there. Needs the Python of the SAM CLI.

    python .ci/transform.py template.yaml
"""

import re
import sys

from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.transform import transform


class ManagedPolicies:
    """Stands in for the list of AWS's managed policies, which only an account can read: the transform writes the ARN of
    the few it needs itself."""

    def load(self):
        return {}


def main(path):
    with open(path, encoding="utf-8") as file:
        template = yaml_parse(file.read())
    for resource in template["Resources"].values():
        # The transform knows uploaded code only.
        if "CodeUri" in resource.get("Properties", {}):
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
    template = transform(template, {}, ManagedPolicies())
    resources = template["Resources"]
    names = set(resources) | set(template.get("Parameters", {}))
    conditions = set(template.get("Conditions", {}))
    problems = []

    edges = {}
    for name, resource in resources.items():
        found = set(references(resource)) | set(listed(resource.get("DependsOn")))
        problems += [f"{name} refers to {other}, which is not there" for other in sorted(found - names)]
        edges[name] = sorted(found & set(resources))
        if resource.get("Condition", None) not in conditions | {None}:
            problems.append(f"{name} has the condition {resource['Condition']}, which is not there")
    for name, output in template.get("Outputs", {}).items():
        missing = sorted(set(references(output)) - names)
        problems += [f"the output {name} refers to {other}, which is not there" for other in missing]
    problems += [f"a circle of references: {' -> '.join(circle)}" for circle in circles(edges)]
    problems += foreign(resources)

    for problem in problems:
        print(f"{path}: {problem}", file=sys.stderr)
    print(f"{path}: {len(resources)} resources after the transform, {len(problems)} problems")
    return 1 if problems else 0


def references(value):
    """The names that a value refers to by Ref, Fn::GetAtt and Fn::Sub, without AWS's own (AWS::Region)."""
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        for key, argument in value.items():
            if key == "Ref":
                found = [argument]
            elif key == "Fn::GetAtt":
                found = [(argument if isinstance(argument, list) else argument.split("."))[0]]
            elif key == "Fn::Sub":
                text, own = argument if isinstance(argument, list) else (argument, {})
                variables = re.findall(r"\$\{([^!}][^}]*)\}", text)
                found = [name.split(".")[0] for name in variables if name not in own]
                yield from references(own)
            else:
                found = []
                yield from references(argument)
            yield from (name for name in found if not name.startswith("AWS::"))


def listed(value):
    return value if isinstance(value, list) else [value] if value else []


def circles(edges):
    """One circle for each reference that closes one, found by walking in depth."""
    done, path = set(), []

    def walk(name):
        if name in path:
            yield path[path.index(name) :] + [name]
        elif name not in done:
            path.append(name)
            for other in edges[name]:
                yield from walk(other)
            done.add(path.pop())

    for name in edges:
        yield from walk(name)


def foreign(resources):
    """Parts of an API that name another API than the one they use the parts of."""
    kind = "AWS::ApiGatewayV2::"
    parts = {name: resource for name, resource in resources.items() if resource["Type"].startswith(kind)}
    for name, resource in parts.items():
        api = (resource.get("Properties") or {}).get("ApiId")
        for other in sorted(set(references(resource)) & set(parts)):
            others = (parts[other].get("Properties") or {}).get("ApiId")
            if api is not None and others is not None and others != api:
                yield f"{name} belongs to {api} and uses {other} of {others}"
        if api is not None:
            for target in references(api):
                if target in resources and resources[target]["Type"] != kind + "Api":
                    yield f"{name} belongs to {target}, which is no API"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
