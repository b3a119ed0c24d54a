//go:build node

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/test/netlab"
)

const (
	network  = "nearpath"
	podLink  = "eth0"
	retry    = 11 // "try again later" (CNI specification 1.1.0, section 5)
	cniProto = "1.1.0"
)

// A refusal is the error object that a CNI plugin prints.
type refusal struct {
	Code         uint
	Msg, Details string
}

func (e *refusal) Error() string { return fmt.Sprintf("code %d: %s: %s", e.Code, e.Msg, e.Details) }

// cni executes the plugin on the node as a container runtime does. It may be called from any goroutine.
func (r *rig) cni(ctx context.Context, verb, container, netns string, more map[string]any) ([]byte, error) {
	conf := map[string]any{"cniVersion": cniProto, "name": network, "type": "nearpath-cni"}
	maps.Copy(conf, more)
	stdin, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	cmd := r.node.Command(ctx, filepath.Join(r.bin, "nearpath-cni"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_PATH="+r.bin)
	if container != "" {
		cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+container, "CNI_NETNS="+netns, "CNI_IFNAME="+podLink,
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+container)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		var told refusal
		if json.Unmarshal(stdout.Bytes(), &told) == nil && told.Code != 0 {
			return nil, &told
		}
		return nil, fmt.Errorf("%s of %s: %w: %s%s", verb, container, err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// sandboxes makes n pods that have no network yet, new ones or those of the given names.
func (r *rig) sandboxes(t *testing.T, n int, names ...string) []*pod {
	t.Helper()
	pods := make([]*pod, n)
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range pods {
		r.named++
		p := &pod{container: fmt.Sprintf("c%d", r.named), name: fmt.Sprintf("p%d", r.named)}
		if i < len(names) {
			p.name = names[i]
		}
		pods[i] = p
		all.Go(func() {
			if p.sandbox, errs[i] = r.node.StartSandbox(t.Context(), netlab.SandboxSpec{Name: p.container}); errs[i] == nil {
				p.netns = netlab.OpenNetNS(r.node.MachinePath(p.sandbox.NetNSPath()))
			}
		})
	}
	all.Wait()
	ok(t, errors.Join(errs...))
	return pods
}

// An attempt is an ADD and what became of it.
type attempt struct {
	*pod
	err error
}

// add asks for the network of all the pods at once. The function it returns waits for the answers.
func (r *rig) add(t *testing.T, pods []*pod) func() []attempt {
	t.Helper()
	tries := make([]attempt, len(pods))
	var all sync.WaitGroup
	for i, p := range pods {
		all.Go(func() { tries[i] = attempt{p, r.addOne(t.Context(), p)} })
	}
	return func() []attempt {
		all.Wait()
		return tries
	}
}

func (r *rig) addOne(ctx context.Context, p *pod) error {
	out, err := r.cni(ctx, "ADD", p.container, p.sandbox.NetNSPath(), nil)
	if err != nil {
		return err
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(out, &result); err != nil || len(result.IPs) == 0 {
		return fmt.Errorf("ADD of %s printed %s: %w", p.container, out, errors.Join(err, errors.New("no address")))
	}
	p.addr, p.result = result.IPs[0].Address.Addr(), out
	r.books.added(p)
	return nil
}

// run gives n new pods a network, all at once.
func (r *rig) run(t *testing.T, n int) {
	t.Helper()
	for _, a := range r.add(t, r.sandboxes(t, n))() {
		if a.err != nil {
			t.Fatalf("ADD of %s: %v", a.container, a.err)
		}
	}
}

// del takes the pods' network, all at once, and then their sandboxes. It succeeds whatever has become of the agent.
func (r *rig) del(t *testing.T, pods []*pod) {
	t.Helper()
	errs := make([]error, len(pods))
	var all sync.WaitGroup
	for i, p := range pods {
		r.books.deleting(p)
		all.Go(func() {
			more := map[string]any{}
			if p.result != nil {
				more["prevResult"] = p.result
			}
			_, errs[i] = r.cni(t.Context(), "DEL", p.container, p.sandbox.NetNSPath(), more)
		})
	}
	all.Wait()
	ok(t, errors.Join(errs...))
	r.stop(t, pods)
}

// stop ends sandboxes without telling the agent.
func (r *rig) stop(t *testing.T, pods []*pod) {
	t.Helper()
	for _, p := range pods {
		ok(t, p.sandbox.Stop(t.Context()))
	}
}

// retry does what kubelet does about ADDs that failed: a new sandbox under a new container ID for each. The old ones are
// deleted, or they are not, because nobody may have told kubelet of them; then the collection that follows finds them.
func (r *rig) retry(t *testing.T, tries []attempt) {
	t.Helper()
	var names []string
	for _, a := range tries {
		if a.err == nil {
			continue
		}
		names = append(names, a.name)
		if r.rand.IntN(2) == 0 {
			r.del(t, []*pod{a.pod})
		} else {
			r.stop(t, []*pod{a.pod})
		}
	}
	for _, a := range r.add(t, r.sandboxes(t, len(names), names...))() {
		if a.err != nil {
			t.Fatalf("ADD of %s, tried again as %s: %v", a.name, a.container, a.err)
		}
	}
	r.collect(t)
}

// collect asks for GC with the live pods.
func (r *rig) collect(t *testing.T) {
	t.Helper()
	valid := []map[string]string{}
	for _, p := range r.books.pods() {
		valid = append(valid, map[string]string{"containerID": p.container, "ifname": podLink})
	}
	_, err := r.cni(t.Context(), "GC", "", "", map[string]any{"cni.dev/valid-attachments": valid})
	ok(t, err)
}

// pending counts the deletions that wait for an agent.
func (r *rig) pending(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir(r.node.MachinePath(agentapi.PendingDir("")))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	ok(t, err)
	return len(files)
}
