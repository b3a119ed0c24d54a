//go:build node

package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

// prefix begins the name of everything the tests make on the machine.
const prefix = "npcrash"

const instanceType = "ecs.sim.crash"

const (
	configOnNode    = "/etc/nearpath/config.yaml"
	manifestsOnNode = "/etc/nearpath/manifests"
	journalOnNode   = "/var/lib/nearpath/ipam.db"
)

// Marks of the pool.
const (
	minIdle  = 1
	maxIdle  = 2
	cooldown = time.Second
)

// eniStays is how long the pool keeps an ENI at least, with the time that attaching takes.
const eniStays = time.Minute + 5*time.Second

// patience bounds the wait for one condition, unless something is said beside it.
const patience = time.Minute

// settings go on where cloudlab's AgentConfig ends, which is within cloud. The budgets are out of the way: restarts come
// much faster here than anywhere else. What is deleted before an agent knows any pods is kept for its name; that is not to
// take longer than the rest.
var settings = fmt.Sprintf(`  rateLimits: {%s}
manifests: %s
logLevel: debug
pool:
  minIdle: %d
  maxIdle: %d
  cooldown: %s
  keepFor: %s
  idleReclaim: {after: 500ms, interval: 200ms, batch: 2}
`, strings.Join(mutations, ": 6000, ")+": 6000, DescribeNetworkInterfaces: 6000", manifestsOnNode, minIdle, maxIdle, cooldown, cooldown)

// manifests are the least of a cluster.
const manifests = `apiVersion: v1
kind: Namespace
metadata: {name: default}
`

// A spec says what a rig is like.
type spec struct {
	name string
	bin  string // directory with the programs
	seed uint64
	// ENIs and PerENI are what the instance type allows, the primary ENI not counted.
	ENIs, PerENI int
}

// A rig is a node of a simulated cloud with one agent, and a container runtime's part. Its methods are for the test's
// goroutine.
type rig struct {
	spec
	lab     *netlab.Lab
	cloud   *cloudlab.Cloud
	gate    *gate
	books   *books
	machine cloudlab.Machine
	peer    cloudlab.Machine // another instance of the VPC
	node    *netlab.Node
	api     *agentapi.Client
	rand    *rand.Rand
	named   int          // pods so far
	theirs  []aliyun.ENI // ENIs that are not the pool's, as they were at the start
	running sync.Mutex   // guards agent
	agent   *netlab.Process
}

func newRig(t *testing.T, s spec) *rig {
	t.Helper()
	r := &rig{spec: s, books: newBooks(cooldown), rand: rand.New(rand.NewPCG(s.seed, 0))}
	r.gate = &gate{limit: s.ENIs, books: r.books, creating: map[string]int{}}
	var err error
	r.lab, err = netlab.New(prefix + "-" + s.name)
	ok(t, err)
	t.Cleanup(func() { ok(t, r.lab.Close()) })
	r.cloud, err = cloudlab.Open(r.lab, cloudlab.Options{Sim: simulated(s), InstanceType: instanceType, Wrap: r.gate.wrap})
	ok(t, err)
	t.Cleanup(func() { ok(t, r.cloud.Close()) })
	r.gate.sim = r.cloud.Sim()
	r.machine, err = r.cloud.Machine(t.Context(), "node")
	ok(t, err)
	r.gate.instance = r.machine.ID
	r.peer, err = r.cloud.Machine(t.Context(), "peer")
	ok(t, err)
	r.node, err = r.lab.StartNode(netlab.NodeSpec{
		Name: "node", NetNS: r.machine.NetNS, Overlays: []string{"/etc", "/var"},
		Files: map[string]string{
			configOnNode:                   r.cloud.AgentConfig("node") + settings,
			manifestsOnNode + "/node.yaml": manifests,
		},
	})
	ok(t, err)
	r.api = agentapi.NewClient(r.node.MachinePath(agentapi.DefaultSocket))
	r.theirs = foreign(t, r.cloud.Sim(), r.machine.ID)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("changes asked of the cloud:\n%s\nthe agent's log ends:\n%s", r.gate.history(), tail(r.logFile()))
		}
	})
	t.Cleanup(r.kill)
	t.Cleanup(func() {
		if t.Failed() {
			var pool, enis json.RawMessage
			err := errors.Join(r.api.Get(context.Background(), "/v1/pool", &pool), r.api.Get(context.Background(), "/v1/enis", &enis))
			t.Logf("the agent's pool is %s\nwith %s (%v)", pool, enis, err)
		}
	})
	return r
}

// simulated is a cloud whose calls take a while: a boundary must not be hit only because nothing takes any time.
func simulated(s spec) sim.Config {
	config := sim.DefaultConfig()
	config.Logger = slog.New(slog.DiscardHandler)
	kind := config.InstanceTypes[len(config.InstanceTypes)-1]
	kind.ID, kind.ENIs, kind.AddressesPerENI, kind.TotalQueues = instanceType, s.ENIs+1, s.PerENI, 0
	config.InstanceTypes = append(config.InstanceTypes, kind)
	config.Delays = sim.Delays{
		Create: 20 * time.Millisecond, Attach: 60 * time.Millisecond, Detach: 60 * time.Millisecond, Delete: 40 * time.Millisecond,
		Assign: 20 * time.Millisecond, Unassign: 20 * time.Millisecond,
	}
	return config
}

func (r *rig) logFile() string { return filepath.Join(r.node.Dir(), "agent.log") }

// start starts the agent and waits until it is ready.
func (r *rig) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(r.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	ok(t, err)
	defer log.Close()
	cmd := r.node.Command(context.Background(), filepath.Join(r.bin, "nearpath"), "agent", "--config", configOnNode)
	cmd.Stdout, cmd.Stderr = log, log
	agent, err := r.lab.Start(cmd)
	ok(t, err)
	r.running.Lock()
	r.agent = agent
	r.running.Unlock()
	await(t, patience, "the agent to be ready", func() error {
		select {
		case <-agent.Done():
			t.Fatalf("the agent ended: %v", agent.Err())
		default:
		}
		var view struct{ Waiting []string }
		if err := r.api.Get(t.Context(), "/v1/ready", &view); err != nil {
			return err
		}
		if len(view.Waiting) > 0 {
			return fmt.Errorf("it waits for %v", view.Waiting)
		}
		return nil
	})
}

// kill ends the agent with SIGKILL and returns when it has ended. It may be called from any goroutine.
func (r *rig) kill() {
	r.running.Lock()
	defer r.running.Unlock()
	if r.agent != nil {
		r.agent.Kill()
	}
}

// dead reports whether the agent has ended.
func (r *rig) dead() bool {
	r.running.Lock()
	defer r.running.Unlock()
	select {
	case <-r.agent.Done():
		return true
	default:
		return false
	}
}

// trap makes one for the agent.
func (r *rig) trap(nth int) *trap { return newTrap(nth, r.kill) }

// await polls until lacking returns nil.
func await(t *testing.T, atMost time.Duration, what string, lacking func() error) {
	t.Helper()
	deadline := time.Now().Add(atMost)
	for {
		err := lacking()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", atMost, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tail is the end of a file.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-12000):])
}
