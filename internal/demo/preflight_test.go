package demo

import (
	"errors"
	"strings"
	"testing"
)

func TestMissing(t *testing.T) {
	t.Parallel()
	works := func() error { return nil }
	for name, tt := range map[string]struct {
		machine machine
		want    []string // one text each complaint must contain
	}{
		"nothing":     {machine{release: "6.18.44", bpf: works, cgroup2: true}, nil},
		"floor":       {machine{release: "5.10.0-32-cloud-amd64", bpf: works, cgroup2: true}, nil},
		"not root":    {machine{uid: 1000, release: "6.1.0", bpf: works, cgroup2: true}, []string{"root"}},
		"old kernel":  {machine{release: "5.4.17-2136", bpf: works, cgroup2: true}, []string{"5.4.17-2136: Linux 5.10"}},
		"no BPF":      {machine{release: "6.1.0", bpf: func() error { return errors.New("operation not permitted") }, cgroup2: true}, []string{"BPF does not work"}},
		"no cgroup2":  {machine{release: "6.1.0", bpf: works}, []string{"cgroup2"}},
		"no programs": {machine{release: "6.1.0", bpf: works, cgroup2: true, programs: []string{"nsenter: util-linux"}}, []string{"nsenter: util-linux"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := missing(tt.machine)
			if len(got) != len(tt.want) {
				t.Fatalf("missing %q, want %d complaints", got, len(tt.want))
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("complaint %q does not say %q", got[i], want)
				}
			}
		})
	}
}
