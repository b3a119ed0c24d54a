package main

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nearpath/nearpath/externaldns"
)

// leastPublisher is the least that a configuration says.
const leastPublisher = "ownerID: prod\npolicy: sync\ncloud: {region: cn-hangzhou}\nnames: {sources: [service]}\n"

func TestReadPublisherConfig(t *testing.T) {
	t.Parallel()
	c, err := readPublisherConfig(writeConfig(t, `
ownerID: prod
formerOwnerIDs: [old]
policy: upsert-only
claim: true
zones: {ids: [z1], vpc: vpc-1}
cloud: {region: cn-hangzhou, pvtzEndpoint: pvtz.example, rateLimits: {AddZoneRecord: 60}}
names: {sources: [service, gateway-httproute], domains: [corp.example], templates: ["{{.Name}}.corp.example"], ttl: 30}
guard: {percent: 5, grace: 1h}
hintInterval: 30s
leaderElection: {enabled: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	s := c.syncer()
	if s.Policy.Owner != "prod" || !slices.Equal(s.Policy.Former, []externaldns.Owner{"old"}) || s.Policy.Mode != externaldns.UpsertOnly || !s.Policy.Claim {
		t.Errorf("policy %+v", s.Policy)
	}
	if !slices.Equal(s.Scope.ZoneIDs, []string{"z1"}) || s.Scope.VPCID != "vpc-1" || s.Poll != 30*time.Second || s.Audit != 4*time.Hour {
		t.Errorf("%+v", s)
	}
	if l := s.Limits; l.Floor != 10 || l.Percent != 5 || l.Grace != time.Hour || l.DeletesPerMinute != 600 {
		t.Errorf("limits %+v", l)
	}
	r := c.Names.rules()
	if !slices.Equal(r.Sources, []externaldns.Source{externaldns.SourceService, externaldns.SourceHTTPRoute}) || r.TTL != 30 || len(r.Templates) != 1 {
		t.Errorf("rules %+v", r)
	}
	if c.Cloud.RateLimits["AddZoneRecord"] != 60 || c.Cloud.Metadata == "" || c.Listen.Port() != 9441 || c.Socket != "/run/nearpath/externaldns.sock" || c.LeaderElection.Name == "" {
		t.Errorf("%+v", c)
	}
}

// TestPublisherConfigFaults: each fault names the field, the value and the fix, one line each, and all are told at once.
func TestPublisherConfigFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"nothing":       {"{}", []string{`ownerID: "": give`, `policy: "": use sync, upsert-only, create-only; it has no default`, `names.sources: "": name`, `cloud.region: ""`}},
		"owner":         {"ownerID: Prod.1", []string{`ownerID: "Prod.1"`, "a-z"}},
		"former":        {"formerOwnerIDs: [prod]", []string{`formerOwnerIDs[0]: "prod"`}},
		"policy":        {"policy: synk", []string{`policy: "synk"`, "upsert-only"}},
		"unknown key":   {"polcy: sync", []string{`polcy: "sync"`, "did you mean policy?"}},
		"cloud key":     {"cloud: {pvtzEndpont: x}", []string{`cloud.pvtzEndpont: "x"`, "did you mean pvtzEndpoint?"}},
		"agent's key":   {"cloud: {vSwitches: [a]}", []string{"cloud.vSwitches", "no such key"}},
		"half a key":    {"cloud: {accessKeyID: x}", []string{"cloud.accessKeyID", "cloud.accessKeySecret"}},
		"two sources":   {"kubeconfig: /a\nmanifests: /b", []string{`manifests: "/b"`, "set one of them"}},
		"public":        {"listen: 0.0.0.0:9441", []string{`listen: "0.0.0.0:9441"`, "loopback"}},
		"socket":        {"socket: x.sock", []string{`socket: "x.sock"`, "absolute"}},
		"intervals":     {"auditInterval: 1s\nhintInterval: 0s", []string{`auditInterval: "1s"`, `hintInterval: "0s"`}},
		"guard":         {"guard: {floor: 0, percent: 101, window: 0s, grace: -1s, deletesPerMinute: 0}", []string{`guard.floor: "0"`, `guard.percent: "101"`, `guard.window: "0s"`, `guard.grace: "-1s"`, `guard.deletesPerMinute: "0"`}},
		"source":        {"names: {sources: [servise]}", []string{`names.sources[0]: "servise"`, "use service"}},
		"ttl":           {"names: {ttl: 300}", []string{"names.ttl", "300", "3600"}},
		"template":      {"names: {templates: ['{{.Name']}", []string{`names.templates[0]: "{{.Name"`}},
		"selector":      {"names: {labels: '='}", []string{`names.labels: "="`}},
		"domain":        {"names: {domains: [a..b]}", []string{`names.domains[0]: "a..b"`}},
		"access":        {"names: {access: both}", []string{`names.access: "both"`, "public"}},
		"zones":         {"zones: {ids: [a, a], domains: ['.']}", []string{"zones.ids", `zones.domains[0]: "."`}},
		"lease nowhere": {"manifests: /m\nleaderElection: {enabled: true}", []string{`leaderElection.enabled: "true"`, "use false"}},
		"lease name":    {"leaderElection: {namespace: '', name: ''}", []string{"leaderElection.namespace", "leaderElection.name"}},
		"many":          {"policy: x\nlisten: y\nnames: {ttl: z}", []string{"policy", "listen", "names.ttl"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := tt.text
			for line := range strings.Lines(leastPublisher) { // what the case does not say itself
				if key, _, _ := strings.Cut(line, ":"); name != "nothing" && !strings.Contains(text, key+":") {
					text += "\n" + strings.TrimSpace(line)
				}
			}
			out, err := execute(t, "externaldns", "--config", writeConfig(t, text))
			if err == nil || !isUsage(err) {
				t.Fatalf("%v, want a usageError: %s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
	if _, err := execute(t, "externaldns"); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("without a file: %v", err)
	}
	if _, err := readPublisherConfig(writeConfig(t, leastPublisher)); err != nil {
		t.Errorf("the least there is: %v", err)
	}
}

const publisherDocs = "../../docs/externaldns.md"

// TestPublisherDocs: every key is in the table, and the example is one that is accepted.
func TestPublisherDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(publisherDocs)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range configKeys("", reflect.TypeFor[publisherConfig]()) {
		if !strings.Contains(string(text), "`"+key+"`") {
			t.Errorf("%s does not speak of %s", publisherDocs, key)
		}
	}
	if _, err := readPublisherConfig(writeConfig(t, fenced(t, "yaml"))); err != nil {
		t.Errorf("the example: %v", err)
	}
}

func configKeys(path string, t reflect.Type) (keys []string) {
	for field := range t.Fields() {
		name := strings.TrimPrefix(path+"."+field.Tag.Get("json"), ".")
		switch {
		case field.Anonymous:
			keys = append(keys, configKeys(path, field.Type)...)
		case isGroup(field.Type):
			keys = append(keys, configKeys(name, field.Type)...)
		default:
			keys = append(keys, name)
		}
	}
	return keys
}

// fenced is the documentation's first block in a language.
func fenced(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile(publisherDocs)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n```"+language+"\n")
	block, _, found := strings.Cut(rest, "\n```\n")
	if !found {
		t.Fatalf("%s has no block of %s", publisherDocs, language)
	}
	return block
}

func FuzzReadPublisherConfig(f *testing.F) {
	f.Add(leastPublisher)
	f.Add("ownerID: a\nnames: {sources: [pod], templates: ['{{.Name}}'], labels: 'a in (b)'}")
	f.Add("guard: {window: -1s}\nzones: {domains: ['']}")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := readPublisherConfig(writeConfig(t, text)); err == nil {
			_ = c.syncer()
		}
	})
}
