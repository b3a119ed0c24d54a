package cni

import (
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
)

func TestParseNetConf(t *testing.T) {
	c, err := ParseNetConf([]byte(`{"cniVersion":"1.0.0","name":"net","type":"nearpath-cni","mtu":1400,"args":{"cni":{}},
		"capabilities":{"io.kubernetes.cri.pod-annotations":true},"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"b"}},
		"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}],"cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.CNIVersion != "1.0.0" || c.Name != "net" || c.MTU != 1400 || c.Datapath != Veth || c.Annotations["a"] != "b" {
		t.Errorf("read as %+v", c)
	}
	if diff := cmp.Diff([]types.GCAttachment{{ContainerID: "c", IfName: "eth0"}}, c.Valid); diff != "" {
		t.Error(diff)
	}
}

func TestNetConfErrors(t *testing.T) {
	const base = `{"cniVersion":"1.1.0","name":"net","type":"nearpath-cni"`
	for name, c := range map[string]struct{ conf, want string }{
		"no JSON":                {`{`, "read network configuration: unexpected EOF"},
		"null":                   {`null`, "it is null"},
		"more after it":          {base + `}{}`, "data after the JSON object"},
		"unknown key":            {base + `,"mut":1400}`, `field "mut": is not known`},
		"key in another case":    {base + `,"MTU":1400}`, `field "MTU": is not known`},
		"another plugin's key":   {base + `,"ipam":{}}`, `field "ipam": is not known; remove it: addresses come from the agent's pool`},
		"MTU too small":          {base + `,"mtu":500}`, `field "mtu": is 500; it must be 0 (the uplink's) or 576 to 65535`},
		"MTU is text":            {base + `,"mtu":"1400"}`, `field "mtu": is "1400"; write a number`},
		"unknown datapath":       {base + `,"datapath":"vlan"}`, `field "datapath": is "vlan"; it must be "veth", "ipvlan" or "exclusive"`},
		"no name":                {`{"type":"nearpath-cni"}`, `field "name": is missing`},
		"bad name":               {`{"name":"a/b"}`, `field "name": is "a/b"; it must begin`},
		"another type":           {`{"name":"net","type":"bridge"}`, `field "type": is "bridge"; it must be "nearpath-cni"`},
		"unsupported capability": {base + `,"capabilities":{"mac":true}}`, `asks for "mac", which is not supported; remove it`},
		"undeclared argument":    {base + `,"runtimeConfig":{"bandwidth":{}}}`, `has "bandwidth", which "capabilities" does not ask for`},
		"relative socket":        {base + `,"socket":"agent.sock"}`, `field "socket": is "agent.sock"; it must be the absolute path`},
	} {
		if _, err := ParseNetConf([]byte(c.conf)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

// DEL must work with what ADD refuses.
func TestTeardownReadsWhatAddRefuses(t *testing.T) {
	if c, err := parseForTeardown([]byte(`{"name":"net","type":"old","mtu":"x","ipam":{}}`)); err != nil || c.Name != "net" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := parseForTeardown([]byte(`{"type":"nearpath-cni"}`)); err == nil {
		t.Error("a configuration without a name was taken")
	}
}

func TestParseArgs(t *testing.T) {
	got, err := parseArgs("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod-1;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1;OTHER=x")
	if want := (PodRef{"ns", "pod-1", "u-1", "abc"}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseArgs(""); err != nil || got != (PodRef{}) {
		t.Errorf("empty: %+v, %v", got, err)
	}
	for args, want := range map[string]string{
		"K8S_POD_NAME":            `"K8S_POD_NAME" is not of the form KEY=VALUE`,
		"=x":                      "not of the form",
		"OTHER=x":                 "unknown keys [OTHER]; set IgnoreUnknown=1",
		"OTHER=x;IgnoreUnknown=0": "unknown keys",
		"K8S_POD_NAME=../etc":     "a character that no name has: '/'",
		"K8S_POD_NAME=" + strings.Repeat("a", 254): "254 characters",
	} {
		if _, err := parseArgs(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", args, err, want)
		}
	}
}

func FuzzParseNetConf(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion":"1.1.0","name":"net","type":"nearpath-cni","mtu":1400}`, `{"name":"n","runtimeConfig":{"a":1},"capabilities":{"a":true}}`,
		`{"name":"n","cni.dev/valid-attachments":null,"prevResult":{"ips":[]}}`, `[]`, `{"name":"n","dns":{"search":["a"]}}`, "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		strict, strictErr := ParseNetConf(data)
		loose, looseErr := parseForTeardown(data)
		if strictErr == nil {
			if looseErr != nil || loose.Name != strict.Name {
				t.Fatalf("ADD takes it and DEL does not: %v", looseErr)
			}
			if strict.MTU != 0 && (strict.MTU < 576 || strict.MTU > 65535) || !slices.Contains(datapaths, strict.Datapath) {
				t.Fatalf("out of bounds: %+v", strict)
			}
		}
	})
}

func FuzzParseArgs(f *testing.F) {
	for _, seed := range []string{"K8S_POD_NAME=a;IgnoreUnknown=1", ";;=;", "A=B=C", "IgnoreUnknown=true;X=\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, args string) {
		pod, err := parseArgs(args)
		if err != nil {
			return
		}
		for _, name := range []string{pod.Name, pod.Namespace, pod.UID, pod.SandboxID} {
			if strings.ContainsAny(name, "/;= \x00\n") || len(name) > 253 {
				t.Fatalf("%q passed", name)
			}
		}
	})
}
