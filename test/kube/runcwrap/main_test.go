package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandAndBundle(t *testing.T) {
	for name, test := range map[string]struct{ args, command, bundle string }{
		"as containerd calls it": {"--root /run/x --log /run/y --log-format json create --bundle /b --pid-file /p id", "create", "/b"},
		"option with equals":     {"--root=/run/x create --bundle=/b id", "create", "/b"},
		"short option":           {"run -b /b id", "run", "/b"},
		"no bundle":              {"--debug create id", "create", "."},
		"update":                 {"--root /run/update update --resources - id", "update", "."},
		"kill":                   {"--systemd-cgroup kill create 9", "kill", "."},
		"nothing":                {"--version", "", "."},
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(test.args)
			if got := command(args); got != test.command {
				t.Errorf("command %q, want %q", got, test.command)
			}
			if got := bundle(args); got != test.bundle {
				t.Errorf("bundle %q, want %q", got, test.bundle)
			}
		})
	}
}

func TestStripKeepsDevicesAndEverythingElse(t *testing.T) {
	for name, test := range map[string]struct{ spec, want string }{
		"limits":       {`{"process":{"args":["a<b"]},"linux":{"cgroupsPath":"/p","resources":{"cpu":{"shares":2},"memory":{"limit":1},"pids":{"limit":9},"unified":{"a":"b"},"devices":[{"allow":false}]}}}`, `{"process":{"args":["a<b"]},"linux":{"cgroupsPath":"/p","resources":{"devices":[{"allow":false}]}}}`},
		"no resources": {`{"linux":{"cgroupsPath":"/p"}}`, `{"linux":{"cgroupsPath":"/p"}}`},
		"no linux":     {`{"process":{}}`, `{"process":{}}`},
		"null":         {`{"linux":{"resources":null}}`, `{"linux":{"resources":null}}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := strip([]byte(test.spec))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(decode(t, test.want), decode(t, string(got))); diff != "" {
				t.Errorf("specification (-want +got):\n%s", diff)
			}
		})
	}
}

func decode(t *testing.T, text string) (value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func FuzzStrip(f *testing.F) {
	f.Add([]byte(`{"linux":{"resources":{"cpu":{},"devices":[]}}}`))
	f.Add([]byte(`{"linux":null}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, spec []byte) {
		got, err := strip(spec)
		if err == nil && !json.Valid(got) {
			t.Errorf("%q became %q", spec, got)
		}
	})
}
