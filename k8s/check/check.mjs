// Builds every overlay with kustomize and holds each manifest against the types of its kind, as a compiler does: a field that
// does not exist, a missing one and a wrong value are errors. Then asks what no schema knows: do settings, secrets, ports,
// accounts and metrics that manifests name exist? Arguments: the repository, kustomize, promtool, the folder of node_modules.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [root, kustomize, promtool, modules] = process.argv.slice(2);
const require = createRequire(join(modules, "anything.js"));
const YAML = require("yaml");
const problems = [];

// Packages that have the types of an API group; the core's groups end in `k8s.io` or have no dot.
const PACKAGES = {
  "kafka.strimzi.io": "@kubernetes-models/strimzi-kafka-operator",
  "postgresql.cnpg.io": "@kubernetes-models/cloudnative-pg",
  "keda.sh": "@kubernetes-models/keda",
  "cert-manager.io": "@kubernetes-models/cert-manager",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

/** Returns the module that has the type of a manifest. */
function moduleOf(apiVersion) {
  const [group, version] = apiVersion.includes("/") ? apiVersion.split("/") : ["", apiVersion];
  return [PACKAGES[group] ?? "kubernetes-models", group, version].filter(Boolean).join("/");
}

/** Builds an overlay. */
function build(overlay) {
  const text = execFileSync(kustomize, ["build", join(root, "k8s/overlays", overlay)], { encoding: "utf8" });
  return YAML.parseAllDocuments(text).map((document) => document.toJS());
}

/** Writes the manifests as typed literals, and lets the compiler find what does not fit. */
function checkTypes(overlays) {
  const folder = join(modules, "typed");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  const places = {};
  for (const [overlay, manifests] of Object.entries(overlays)) {
    const lines = [];
    places[`${overlay}.ts`] = [];
    manifests.forEach((manifest, index) => {
      const { apiVersion, kind, ...rest } = manifest;
      const text = JSON.stringify(rest, null, 1).split("\n");
      lines.push(`import { ${kind} as K${index} } from "${moduleOf(apiVersion)}";`);
      lines.push(`export const m${index}: NonNullable<ConstructorParameters<typeof K${index}>[0]> = ${text[0]}`);
      lines.push(...text.slice(1));
      while (places[`${overlay}.ts`].length < lines.length) places[`${overlay}.ts`].push(`${kind} ${manifest.metadata.name}`);
    });
    writeFileSync(join(folder, `${overlay}.ts`), lines.join("\n"));
  }
  const files = Object.keys(places).map((name) => join(folder, name));
  const options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"];
  const tsc = spawnSync("node", [require.resolve("typescript/bin/tsc"), ...options, ...files], { encoding: "utf8" });
  for (const line of tsc.stdout.split("\n").filter((text) => text.includes("error TS"))) {
    const found = /(\w+)\.ts\((\d+),\d+\): error TS\d+: (.*)/.exec(line);
    if (!found) problems.push(line);
    else problems.push(`${found[1]}: ${places[`${found[1]}.ts`][found[2] - 1]}: ${found[3]}`);
  }
  if (tsc.status !== 0 && tsc.stdout === "") problems.push(`the compiler did not run: ${tsc.stderr}`);
}

/** Returns the text of a folder's Rust sources. */
function sources(folder) {
  if (!existsSync(folder)) return "";
  return readdirSync(folder, { recursive: true })
    .filter((name) => name.endsWith(".rs"))
    .map((name) => readFileSync(join(folder, name), "utf8"))
    .join("\n");
}

/** Returns the settings without which a program does not start, from the rows of docs/settings.md. */
function requiredOf(program) {
  const required = [];
  let section = "";
  for (const line of readFileSync(join(root, "docs/settings.md"), "utf8").split("\n")) {
    if (line.startsWith("## ")) section = line.slice(3);
    const [, name, , absent, , readers] = line.split("|").map((cell) => cell.trim());
    const isRead = section === program || readers === "all" || readers?.split(", ").includes(program);
    if (absent === "**required**" && isRead) required.push(name.replaceAll("`", ""));
  }
  return required;
}

/** Says what a workload names that is not there: settings, secrets, config maps, ports, programs. */
function checkWorkload(overlay, manifest, manifests) {
  const where = `${overlay}: ${manifest.kind} ${manifest.metadata.name}`;
  const pod = manifest.spec.template.spec;
  const named = (kind) => new Set(manifests.filter((m) => m.kind === kind).map((m) => m.metadata.name));
  const configs = Object.fromEntries(manifests.filter((m) => m.kind === "ConfigMap").map((m) => [m.metadata.name, m.data]));
  for (const container of pod.containers) {
    const program = container.command[0].split("/").pop();
    const known = sources(join(root, program, "src")) + sources(join(root, "chassis/src"));
    const variables = [
      ...(container.env ?? []).map((variable) => variable.name),
      ...(container.envFrom ?? []).flatMap((from) => {
        if (!configs[from.configMapRef.name]) problems.push(`${where}: there is no ConfigMap ${from.configMapRef.name}`);
        return Object.keys(configs[from.configMapRef.name] ?? {});
      }),
    ];
    if (known === "") problems.push(`${where}: there is no program ${program}`);
    for (const name of variables) {
      if (!known.includes(`"${name}"`)) problems.push(`${where}: ${program} knows no setting ${name}`);
    }
    for (const name of program === "iotctl" ? [] : requiredOf(program)) {
      if (!variables.includes(name)) problems.push(`${where}: ${program} needs the setting ${name}`);
    }
    const ports = new Set((container.ports ?? []).map((port) => port.name));
    for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"]) {
      if (manifest.kind === "Job") continue;
      if (!ports.has(container[probe]?.httpGet?.port)) problems.push(`${where}: ${probe} asks at no port of the container`);
    }
    const volumes = new Set([...(pod.volumes ?? []), ...(manifest.spec.volumeClaimTemplates ?? [])].map((v) => v.name ?? v.metadata.name));
    for (const mount of container.volumeMounts ?? []) {
      if (!volumes.has(mount.name)) problems.push(`${where}: there is no volume ${mount.name}`);
    }
    const restricted = container.securityContext?.readOnlyRootFilesystem && pod.securityContext?.runAsNonRoot;
    if (!restricted) problems.push(`${where}: may write its root file system or be root`);
    if (!container.resources?.limits?.memory) problems.push(`${where}: has no limit of memory`);
  }
  // A user's secret is made by Strimzi and a certificate's by cert-manager, each under the name that the manifest gives.
  const made = new Set([...named("KafkaUser"), ...manifests.filter((m) => m.kind === "Certificate").map((m) => m.spec.secretName)]);
  const given = /^(fieldline-cluster-ca-cert|fieldline-database-ca|device-ca|notify-targets|.*-database)$/;
  const secrets = (pod.volumes ?? []).flatMap((volume) => [
    ...(volume.secret ? [volume.secret.secretName] : []),
    ...(volume.projected?.sources ?? []).map((source) => source.secret.name),
  ]);
  for (const name of secrets) {
    if (!made.has(name) && !given.test(name)) problems.push(`${where}: nothing makes the secret ${name}`);
  }
}

/** Says which services, policies and budgets select no pod, and which ports are no container's. */
function checkSelectors(overlay, manifests) {
  const workloads = manifests.filter((m) => m.spec?.template?.spec?.containers);
  const fits = (labels, selector) =>
    Object.entries(selector.matchLabels ?? {}).every(([key, value]) => labels[key] === value) &&
    (selector.matchExpressions ?? []).every(({ key, values }) => values.includes(labels[key]));
  const selected = (selector) => workloads.filter((m) => fits(m.spec.template.metadata.labels, selector));
  for (const manifest of manifests) {
    const where = `${overlay}: ${manifest.kind} ${manifest.metadata.name}`;
    if (manifest.kind === "Service") {
      const pods = selected({ matchLabels: manifest.spec.selector });
      const ports = pods.flatMap((m) => m.spec.template.spec.containers.flatMap((c) => c.ports ?? [])).map((p) => p.name);
      if (pods.length === 0) problems.push(`${where}: selects no pod`);
      for (const port of manifest.spec.ports) {
        if (!ports.includes(port.targetPort)) problems.push(`${where}: no container has the port ${port.targetPort}`);
      }
    } else if (manifest.kind === "PodDisruptionBudget") {
      if (selected(manifest.spec.selector).length !== 1) problems.push(`${where}: selects not just one workload`);
    } else if (manifest.kind === "NetworkPolicy") {
      const pods = selected(manifest.spec.podSelector);
      const ports = pods.flatMap((m) => m.spec.template.spec.containers.flatMap((c) => c.ports ?? [])).map((p) => p.containerPort);
      if (pods.length === 0) problems.push(`${where}: selects no pod`);
      for (const port of (manifest.spec.ingress ?? []).flatMap((rule) => rule.ports ?? [])) {
        if (!ports.includes(port.port)) problems.push(`${where}: no container has the port ${port.port}`);
      }
    }
  }
}

/** Says which topics have not just one writer, and which have no reader or are not in the contract. */
function checkAccounts(overlay, manifests) {
  const contract = [...readFileSync(join(root, "schema/src/topics.rs"), "utf8").matchAll(/"(iot-[a-z-]+)"/g)].map((m) => m[1]);
  const topics = manifests.filter((m) => m.kind === "KafkaTopic").map((m) => m.metadata.name);
  const running = new Set(manifests.filter((m) => m.spec?.template?.spec?.containers).map((m) => m.metadata.name));
  // A topic that an optional service alone writes comes with it.
  const comesWith = { "iot-notify-dlq": "notify-svc" };
  const expected = contract.filter((name) => !comesWith[name] || running.has(comesWith[name]));
  for (const topic of expected.filter((name) => !topics.includes(name))) problems.push(`${overlay}: there is no topic ${topic}`);
  for (const topic of topics.filter((name) => !contract.includes(name))) problems.push(`${overlay}: topic ${topic} is not in the contract`);
  const users = manifests.filter((m) => m.kind === "KafkaUser");
  for (const topic of topics) {
    const writers = users
      .filter((user) => user.spec.authorization.acls.some((acl) => acl.resource.name === topic && acl.operations.includes("Write")))
      .map((user) => user.metadata.name)
      // Debezium stands in for cdc-svc, whose account stays for the way back.
      .filter((name) => name !== "cdc-svc" || running.has("cdc-svc"));
    if (writers.length !== 1) problems.push(`${overlay}: topic ${topic} has the writers ${writers.join(", ") || "none"}`);
  }
}

/** Says which metrics the alert rules name that no service has, and which rules the runbook does not explain. */
function checkRules(overlay, manifests) {
  const text = ["gateway", "command-svc", "alerting-svc", "cdc-svc", "lake-svc", "notify-svc", "chassis", "query-svc"]
    .map((name) => sources(join(root, name, "src")))
    .join("\n");
  const runbook = readFileSync(join(root, "docs/runbook.md"), "utf8");
  const rules = manifests.filter((m) => m.kind === "PrometheusRule").flatMap((m) => m.spec.groups.flatMap((group) => group.rules));
  for (const rule of rules) {
    for (const [name] of rule.expr.matchAll(/\b(gateway|command|alerting|cdc|lake|notify|auth|http|query)_[a-z_]+/g)) {
      const stem = name.replace(/_(bucket|count|sum)$/, "");
      // What several services have is declared without the service's name, which stands where it is registered.
      const suffix = stem.replace(/^[a-z]+_/, "");
      const isJoined = [...stem.matchAll(/_/g)].some(({ index }) => text.includes(`"${stem.slice(0, index)}"`) && text.includes(`"${stem.slice(index + 1)}"`));
      if (!text.includes(`"${stem}"`) && !text.includes(`"${suffix}"`) && !isJoined) problems.push(`${overlay}: rule ${rule.alert}: there is no metric ${name}`);
    }
    if (!runbook.includes(`\`${rule.alert}\``)) problems.push(`${overlay}: rule ${rule.alert} is not in docs/runbook.md`);
  }
}

/** Lets promtool read the rules and try each: a test gives the series that make it speak. */
function testRules(manifests) {
  const groups = manifests.filter((m) => m.kind === "PrometheusRule").flatMap((m) => m.spec.groups);
  const tests = readFileSync(join(root, "k8s/check/rules.test.yaml"), "utf8");
  for (const { alert } of groups.flatMap((group) => group.rules)) {
    if (!tests.includes(`alertname: ${alert}\n`)) problems.push(`rule ${alert} has no test in k8s/check/rules.test.yaml`);
  }
  writeFileSync(join(modules, "rules.yaml"), YAML.stringify({ groups }));
  writeFileSync(join(modules, "rules.test.yaml"), tests);
  const tried = spawnSync(promtool, ["test", "rules", join(modules, "rules.test.yaml")], { encoding: "utf8" });
  if (tried.status !== 0) problems.push(`promtool: ${tried.error ?? tried.stdout + tried.stderr}`);
}

const names = readdirSync(join(root, "k8s/overlays"));
const overlays = Object.fromEntries(names.map((name) => [name, build(name)]));
checkTypes(overlays);
for (const [overlay, manifests] of Object.entries(overlays)) {
  for (const manifest of manifests.filter((m) => m.spec?.template?.spec?.containers)) checkWorkload(overlay, manifest, manifests);
  checkSelectors(overlay, manifests);
  checkAccounts(overlay, manifests);
  checkRules(overlay, manifests);
}
testRules(overlays.production);
const count = Object.values(overlays).reduce((sum, manifests) => sum + manifests.length, 0);
for (const problem of [...new Set(problems)]) console.error(problem);
console.log(`${names.length} overlays, ${count} manifests, ${problems.length} problems`);
process.exit(problems.length === 0 ? 0 : 1);
