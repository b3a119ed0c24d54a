package cni

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nearpath/nearpath/bench/measure"
)

// start is the name of the third series.
const start = "start"

// startUp compares what each verb of each pod pays before it does anything: VERSION only says what versions there are.
func startUp(bin, peers string, quick bool) measure.Series {
	s := measure.Series{
		Name: start, What: "the verb VERSION, which is nothing but the start of the program", Rounds: 1000, Unmeasured: 20,
		Metrics: []measure.Metric{
			{Name: "cpu", What: "processor time, of user and system", Unit: "ms"},
			{Name: "wall", What: "from exec to exit", Unit: "ms"},
		},
	}
	if quick {
		s.Rounds = 200
	}
	for _, c := range []struct {
		name    string
		role    measure.Role
		program string
	}{
		{"nearpath", measure.Subject, filepath.Join(bin, "nearpath-cni")},
		{"bridge", measure.Peer, filepath.Join(peers, "bridge")},
		{"exec", measure.Floor, filepath.Join(bin, "trivial")},
	} {
		s.Cases = append(s.Cases, measure.Case{Name: c.name, Role: c.role, Round: func(ctx context.Context) (measure.Samples, error) {
			return startOf(ctx, c.program)
		}})
	}
	return s
}

// startOf reads the processor time that the kernel counted for the process (getrusage(2)), which other work on the
// machine does not lengthen as it does the time that passes.
func startOf(ctx context.Context, program string) (measure.Samples, error) {
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = []string{"CNI_COMMAND=VERSION", "CNI_PATH=/", "PATH=/usr/bin:/bin"}
	cmd.Stdin = strings.NewReader(`{"cniVersion": "1.1.0"}`)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(began)
	if err != nil {
		return nil, fmt.Errorf("VERSION of %s: %w: %s", program, err, out)
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return measure.Samples{"cpu": millis([]time.Duration{used}), "wall": millis([]time.Duration{wall})}, nil
}
