//go:build node

package nodelocaldns

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/bpf/bpftest"
	"github.com/nearpath/nearpath/internal/cluster"
)

// The size that the budgets are for.
const (
	manyServices  = 10_000
	manyEndpoints = 10 // of each Service
	manyChanges   = 200
)

// many is a Store with a large cluster in it: every tenth Service is headless with named endpoints.
func many() *cluster.Store {
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) {
		for i := range manyServices / 100 {
			e.PutNamespace(fmt.Sprintf("team-%d", i))
		}
		for i := range manyServices {
			e.PutService(manyService(i, 0))
			e.PutSlice(manySlice(i, 0))
		}
		e.MarkSynced()
	})
	return store
}

func manyName(i int) cluster.Name {
	return cluster.Name{Namespace: fmt.Sprintf("team-%d", i/100), Name: fmt.Sprintf("app-%d", i)}
}

func manyService(i, state int) *cluster.Service {
	svc := &cluster.Service{
		Name: manyName(i), UID: fmt.Sprintf("0b1c5c1e-7b5e-4b9a-9d7f-%012d", i), Created: time.Unix(1700000000, 0),
		Ports: []cluster.ServicePort{{Name: "http", Protocol: cluster.TCP, Port: 80}},
	}
	if svc.Headless = i%10 == 0; !svc.Headless {
		svc.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, byte(96 + state), byte(i >> 8), byte(i)})}
	}
	return svc
}

func manySlice(i, state int) *cluster.EndpointSlice {
	name := manyName(i)
	s := &cluster.EndpointSlice{
		Name: cluster.Name{Namespace: name.Namespace, Name: name.Name + "-x7k2p"}, Service: name,
		Ports: []cluster.EndpointPort{{Name: "http", Protocol: cluster.TCP, Port: 8080}},
	}
	for k := range manyEndpoints {
		n := i*manyEndpoints + k
		if k == 0 {
			n += state % 2 * manyServices * manyEndpoints
		}
		e := cluster.Endpoint{Addr: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), Ready: true, Serving: true}
		if i%10 == 0 {
			e.Hostname = fmt.Sprintf("app-%d-%d", i, k)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func kernelPublisher(t *testing.T, answers Answers) *Publisher {
	t.Helper()
	p, err := NewPublisher(PublisherConfig{Zone: testZone, Answers: answers, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPublishAtScale: 10,000 Services are in the kernel in well under a second, a change is in milliseconds, an agent that starts
// again finds all as it is, and no copy of it is in memory. The figures are printed; the bounds are on processor time, as
// the machine may be busy.
func TestPublishAtScale(t *testing.T) {
	store := many()
	sub := store.Subscribe(cluster.Services, cluster.Namespaces)
	defer sub.Close()
	answers := bpftest.Load(t).Answers
	p := kernelPublisher(t, answers)

	heap := heapBytes()
	cpu, started := cpuTime(t), time.Now()
	p.Publish(nextChange(t, sub, false))
	full, work := time.Since(started), cpuTime(t)-cpu
	resident := heapBytes() - heap
	held := count(t, answers)
	if work > 30*time.Second || len(p.lost) > 0 || !p.zone.Complete {
		t.Errorf("published with %s of CPU, %d owners lost, complete %t", work, len(p.lost), p.zone.Complete)
	}

	var took []time.Duration
	cpu = cpuTime(t)
	for i := range manyChanges {
		store.Update(func(e *cluster.Edit) {
			e.PutService(manyService(i, 1))
			e.PutSlice(manySlice(i, 1))
		})
		change := nextChange(t, sub, false)
		started := time.Now()
		p.Publish(change)
		took = append(took, time.Since(started))
	}
	slices.Sort(took)
	if each := (cpuTime(t) - cpu) / manyChanges; each > 10*time.Millisecond {
		t.Errorf("a change takes %s of CPU", each)
	}

	counting := &countingAnswers{Answers: answers}
	again := kernelPublisher(t, counting)
	started = time.Now()
	again.Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
	if counting.writes != 0 {
		t.Errorf("an agent that starts again writes %d times, want 0", counting.writes)
	}
	t.Logf("%d Services, %d entries: full publish %s (%s of CPU), adoption %s, one change p50 %s p99 %s, heap kept %d KB",
		manyServices, held, full.Round(time.Millisecond), work.Round(time.Millisecond), time.Since(started).Round(time.Millisecond), took[len(took)/2], took[len(took)*99/100], resident/1024)
	if resident > 8<<20 {
		t.Errorf("%d bytes of heap are kept", resident)
	}
}

// cpuTime is what this process has had of the processors.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func count(t *testing.T, answers *bpf.Answers) (n int) {
	t.Helper()
	for _, err := range answers.All() {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// countingAnswers counts writes of entries.
type countingAnswers struct {
	Answers
	writes int
}

func (c *countingAnswers) Put(k bpf.AnswerKey, response []byte, life bpf.AnswerLife) error {
	c.writes++
	return c.Answers.Put(k, response, life)
}

func (c *countingAnswers) PutName(name string, flags bpf.NameFlags) error {
	c.writes++
	return c.Answers.PutName(name, flags)
}

func (c *countingAnswers) Delete(k bpf.AnswerKey) error {
	c.writes++
	return c.Answers.Delete(k)
}

func (c *countingAnswers) DeleteName(name string) error {
	c.writes++
	return c.Answers.DeleteName(name)
}
