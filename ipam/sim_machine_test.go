package ipam_test

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/ipam"
)

var (
	seedFlag  = flag.Uint64("ipam.seed", 0, "run the state machine with this seed alone")
	trailFlag = flag.Int("ipam.trail", 60, "lines to print of what the state machine did before a failure")
	allFlag   = flag.Bool("ipam.all", false, "also make the trouble that the pool is known not to get over: "+unsurvived)
	stepsFlag = flag.Int("ipam.steps", 500, "steps of the state machine for each seed")
)

const unsurvived = "listings that lag, a disk that fails, ENIs detached by others, " +
	"conflicts between calls about one ENI of two families"

// seeds are those of a run without the flag; with 500 steps each they make 10,000.
const seeds = 20

// A pool on a simulated cloud does whatever it is asked while the process dies, the disk fills up, the cloud throttles,
// fails, lags or is gone, and others take what is the pool's. Its promises hold at every step, and in the end everything
// comes to rest.
func TestStateMachineAgainstTheCloud(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newMachine(t, seed)
				for range *stepsFlag {
					w.step()
				}
				w.finish()
				t.Logf("seed %d: %d lives, %d leases, %d calls, %d ENIs at most of %d; %s", seed, w.lives, w.leases, len(w.cloud.CallLog(0)), w.model.most, w.model.limit, w.note)
			})
		})
	}
	if *seedFlag != 0 {
		run(*seedFlag)
		return
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		run(seed)
	}
}

// A machine makes the steps.
type machine struct {
	*landscape
	t        *testing.T
	rng      *rand.Rand
	seed     uint64
	life     *life
	config   ipam.Config
	rates    map[string]int
	model    *model
	links    *links
	families []aliyun.Family
	weather  []*sim.Injection
	lag      time.Duration
	mu       sync.Mutex // guards trail
	trail    []string
	unseen   map[string]bool // ENIs that were left out of a listing and may not have been seen since
	note     string
	lives    int
	leases   int
}

var podVSwitches = []string{"vsw-a", "vsw-b"}

func newMachine(t *testing.T, seed uint64) *machine {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	w := &machine{t: t, rng: rng, seed: seed, families: []aliyun.Family{aliyun.IPv4}, links: newLinks(seed), unseen: map[string]bool{}}
	cfg := sim.DualStackConfig()
	cfg.Seed = seed
	cfg.VSwitches = append(cfg.VSwitches,
		sim.VSwitch{ID: "vsw-a", CIDR: netip.MustParsePrefix("10.0.16.0/27"), IPv6CIDR: netip.MustParsePrefix("2001:db8:10:16::/64")},
		sim.VSwitch{ID: "vsw-b", CIDR: netip.MustParsePrefix("10.0.17.0/27"), IPv6CIDR: netip.MustParsePrefix("2001:db8:10:17::/64")},
		sim.VSwitch{ID: "vsw-far", ZoneID: "cn-simulated-b", CIDR: netip.MustParsePrefix("10.0.18.0/27"), IPv6CIDR: netip.MustParsePrefix("2001:db8:10:18::/64")},
	)
	cfg.SecurityGroups = append(cfg.SecurityGroups, sim.SecurityGroup{SecurityGroup: aliyun.SecurityGroup{ID: "sg-other"}})
	cfg.Realistic([]float64{0, 0.3, 1, 2}[rng.IntN(4)])
	cfg.AttachFailure = []float64{0, 0.1, 0.3}[rng.IntN(3)]
	if rng.IntN(2) == 0 && *allFlag {
		w.lag = 2 * time.Second
		cfg.DescribeLag = sim.Uniform(0, w.lag)
	}
	if rng.IntN(3) == 0 {
		w.families = append(w.families, aliyun.IPv6)
	}
	cfg.Conflicts = rng.IntN(2) == 0 && (*allFlag || len(w.families) == 1)
	kind := aliyun.InstanceType{ENIs: 3 + rng.IntN(3), AddressesPerENI: 3 + rng.IntN(4), IPv6PerENI: 3 + rng.IntN(4), QueuesPerENI: 2}
	w.landscape = landscapeOf(t, cfg, kind)
	w.links.fail = []float64{0, 0.1}[rng.IntN(2)]
	w.rates = map[string]int{"DescribeNetworkInterfaces": 240}
	w.model = &model{
		resting: map[netip.Addr]rest{}, stolen: map[netip.Addr]bool{}, creating: map[string]int{}, limit: kind.ENIs - 1, links: w.links, land: w.landscape,
	}
	for i := range 2 * kind.ENIs * kind.AddressesPerENI {
		r := ipam.Request{Key: keyOf(i), Exclusive: rng.IntN(12) == 0}
		if rng.IntN(3) > 0 {
			r.Pod = ipam.Pod{Namespace: "ns", Name: fmt.Sprint("web-", rng.IntN(8)), UID: fmt.Sprint(i)}
		}
		w.model.tenants = append(w.model.tenants, &tenant{request: r})
	}
	w.settle()
	w.config = poolConfig(t, w.settings(), w.families...)
	w.model.settings = w.config.Settings
	w.config.Links, w.config.Log = w.links, slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.note = fmt.Sprintf("%v, %d ENIs of %d+%d, lag %s, attach failure %v, conflicts %v", w.families, kind.ENIs, kind.AddressesPerENI, kind.IPv6PerENI,
		w.lag, cfg.AttachFailure, cfg.Conflicts)
	w.start(w.config.Path)
	return w
}

// settle puts into the cloud what is somebody else's.
func (w *machine) settle() {
	other := map[string]string{"nearpath": owner, "nearpath-instance": otherNode}
	for _, alien := range []struct {
		instance string
		tags     map[string]string
	}{{otherNode, other}, {"", other}, {"", nil}, {otherNode, map[string]string{"nearpath": owner, "nearpath-instance": thisNode}}} {
		if _, err := w.addAlien("vsw-a", alien.instance, alien.tags); err != nil {
			w.t.Fatal(err)
		}
	}
	if w.rng.IntN(3) == 0 && w.kind.ENIs > 3 {
		if _, err := w.addAlien("vsw-b", thisNode, map[string]string{"team": "storage"}); err != nil {
			w.t.Fatal(err)
		}
	}
	time.Sleep(w.lag)
}

func (w *machine) start(path string) {
	w.lives++
	w.config.Path = path
	w.config.Settings = w.model.settings
	w.links.mu.Lock()
	clear(w.links.ready) // what a process knows ends with it
	w.links.mu.Unlock()
	w.life = begin(w.t, w.cloud, w.config, w.rates, func(c call) func() {
		if c.changes() {
			w.say("  -> %s %s %v", c.action, c.eniID, c.addrs)
		}
		return w.model.watch(c)
	})
}

// reboot begins another life on the journal of this one.
func (w *machine) reboot() {
	path := w.life.bury(w.t)
	w.start(path)
}

// seconds draws one of the numbers.
func seconds(n func(int) int, of ...int) time.Duration {
	return time.Duration(of[n(len(of))]) * time.Second
}

// settings draws what Configure may be given.
func (w *machine) settings() ipam.Settings {
	n := w.rng.IntN
	minIdle, exclusive := n(4), n(6)/4
	s := ipam.Settings{
		Watermarks:    ipam.Watermarks{MinIdle: minIdle, MaxIdle: minIdle + n(4), MinTotal: n(6), WarmUp: n(2) * n(8)},
		Exclusive:     ipam.Watermarks{MinIdle: exclusive, MaxIdle: exclusive + n(2)},
		ENIs:          ipam.ENILimits{Min: n(4) / 2},
		VSwitches:     [][]string{{"vsw-a"}, {"vsw-a", "vsw-b"}, {"vsw-b", "vsw-a", "vsw-far"}}[n(3)],
		VSwitchPolicy: []ipam.VSwitchPolicy{ipam.MostFree, ipam.Ordered, ipam.Random}[n(3)],
		ENIPolicy:     []ipam.ENIPolicy{ipam.BalanceQueues, ipam.MostIPs, ipam.LeastIPs}[n(3)],
		Cooldown:      seconds(n, 5, 30, 60), ReuseCooling: n(4) == 0,
		Idle: ipam.IdleReclaim{After: seconds(n, 10, 60, 600), Interval: seconds(n, 5, 60), Batch: 1 + n(5)},
	}
	if n(4) == 0 {
		s.ENIs.Max = max(s.ENIs.Min, 1+n(w.kind.ENIs))
	}
	if n(3) == 0 {
		s.SecurityGroups = [][]string{{"sg-other"}, {sim.DefaultSecurityGroup, "sg-other"}}[n(2)]
	}
	return s
}

func (w *machine) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trail = append(w.trail, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// Write puts a line of the pool's log into the trail.
func (w *machine) Write(line []byte) (int, error) {
	_, what, _ := strings.Cut(strings.TrimSpace(string(line)), "level=")
	w.say("  %s", what)
	return len(line), nil
}

// step does something and then looks whether everything holds.
func (w *machine) step() {
	steps := []struct {
		weight int
		do     func()
	}{
		{30, w.allocate}, {24, w.release}, {4, w.replay}, {14, func() { w.pass(10*time.Millisecond, 5*time.Second) }},
		{8, func() { w.pass(5*time.Second, 90*time.Second) }}, {2, func() { w.pass(2*time.Minute, 15*time.Minute) }},
		{5, w.changeWeather}, {3, w.outage}, {4, w.doom}, {1, w.crash}, {1, w.restart}, {1, ifAll(w.spoilDisk)}, {3, w.configure},
		{2, w.steal}, {1, ifAll(w.detach)}, {1, w.squat}, {2, w.crowd}, {2, w.overlook}, {3, w.reconcile},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	pick := w.rng.IntN(total)
	for _, s := range steps {
		if pick -= s.weight; pick < 0 {
			s.do()
			break
		}
	}
	if w.life.dead.Load() {
		w.say("dead after %d steps", w.life.steps.Load())
		w.reboot()
	}
	w.check()
}

func ifAll(do func()) func() {
	if *allFlag {
		return do
	}
	return func() {}
}

func (w *machine) check() {
	synctest.Wait() // nothing moves
	w.model.check(w.life.pool)
	w.verdict()
}

func (w *machine) verdict() {
	w.model.mu.Lock()
	err := errors.Join(w.model.broken...)
	w.model.mu.Unlock()
	if err == nil {
		return
	}
	from := max(0, len(w.trail)-*trailFlag)
	w.t.Fatalf("run with -ipam.seed %d (%s)\n%s\n%v", w.seed, w.note, strings.Join(w.trail[from:], "\n"), err)
}

// reconcile lets the cloud answer, and the pool look at it once.
func (w *machine) reconcile() {
	w.say("reconcile")
	w.peace()
	w.until("a look at the cloud", 10*time.Minute, w.life.pool.Resync)
	w.until("a sync", 10*time.Minute, w.life.pool.Resynced)
	w.until("rest", 20*time.Minute, func() bool { return w.life.pool.Unrest() == "" })
	time.Sleep(6 * time.Second) // longer than anything lags, and than what is given back may still be shown
	before := w.ours()
	w.until("a look at the cloud", 10*time.Minute, w.life.pool.Resync)
	w.until("a sync", 10*time.Minute, w.life.pool.Resynced)
	synctest.Wait()
	clear(w.unseen)
	w.model.known(w.life.pool, before, w.families)
	w.replayed()
	w.verdict()
}

// peace ends everything that hinders the cloud and the process.
func (w *machine) peace() {
	w.calm()
	w.life.down.Store(false)
	w.life.hidden.Store("")
	w.life.failDisk.Store(0)
	w.life.endAt.Store(0)
	if there := w.squatters(); len(w.ours())+len(there) > w.model.limit {
		for _, e := range there { // else an ENI of the pool has no place to be attached to again
			w.sendAway(e.ID)
		}
	}
	if w.life.dead.Load() {
		w.reboot()
	}
}

func (w *machine) until(what string, patience time.Duration, ok func() bool) {
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			w.model.breach("no %s in %s: %s; %+v", what, patience, w.life.pool.Unrest(), w.life.pool.Stats())
			w.verdict()
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// replayed is I5: the journal makes a pool that has what this one has.
func (w *machine) replayed() {
	raw, err := os.ReadFile(w.life.config.Path)
	if err != nil {
		w.t.Fatal(err)
	}
	c := w.life.config
	c.Path += ".replay"
	if err := os.WriteFile(c.Path, raw, 0o600); err != nil {
		w.t.Fatal(err)
	}
	p, err := ipam.Open(c)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = errors.Join(p.Close(), os.Remove(c.Path)) }()
	for _, pair := range []struct{ live, replayed any }{
		{w.life.pool.Leases(), p.Leases()}, {w.life.pool.Kept(), p.Kept()}, {unwired(w.life.pool), unwired(p)},
	} {
		if live, replayed := fmt.Sprintf("%+v", pair.live), fmt.Sprintf("%+v", pair.replayed); live != replayed {
			w.model.breach("I5: the journal gives %s, the pool has %s", replayed, live)
		}
	}
}

func unwired(p *ipam.Pool) []ipam.ENI {
	enis := p.ENIs()
	for i := range enis {
		enis[i].Wired, enis[i].Queues = false, 0
	}
	return enis
}

// finish lets everybody go and waits for the marks to be met.
func (w *machine) finish() {
	w.say("finish")
	w.peace()
	w.links.mu.Lock()
	w.links.fail = 0
	w.links.mu.Unlock()
	w.life.asking.Wait()
	w.check()
	for _, e := range w.squatters() {
		w.sendAway(e.ID)
	}
	for _, v := range podVSwitches {
		w.empty(v)
	}
	s := ipam.Settings{
		Watermarks: ipam.Watermarks{MinIdle: 2, MaxIdle: 3}, VSwitches: podVSwitches, Cooldown: 30 * time.Second,
		Idle: ipam.IdleReclaim{After: time.Minute, Interval: 10 * time.Second},
	}
	w.model.settings = s
	if err := w.life.pool.Configure(s); err != nil {
		w.t.Fatal(err)
	}
	for t := w.pick(leased, unknown); t != nil; t = w.pick(leased, unknown) {
		w.end(t, 0)
	}
	w.converge(time.Hour, 2, 3)
	w.verdict()
	// And all of it can be leased again, when what vSwitches refused is forgotten.
	time.Sleep(15 * time.Minute)
	for range w.life.pool.Capacity().Shared {
		t := w.pick(absent)
		t.request.Exclusive = false
		w.ask(t, 20*time.Minute)
	}
	w.life.asking.Wait()
	if n := len(w.life.pool.Leases()); n != w.life.pool.Capacity().Shared {
		w.model.breach("%d leases of %+v", n, w.life.pool.Capacity())
	}
	w.check()
}

// converge waits until pool and cloud are the same and between the marks.
func (w *machine) converge(patience time.Duration, least, most int) {
	deadline := time.Now().Add(patience)
	for {
		time.Sleep(10 * time.Second)
		synctest.Wait()
		s := w.life.pool.Stats()
		err := w.model.same(w.life.pool, w.families)
		still := s.Used+s.Kept+s.Cooling+s.Pending+s.Quarantined+s.Unproven+s.Waiting == 0 && s.Exclusive == (ipam.ExclusiveStats{Capacity: s.Exclusive.Capacity})
		if err == nil && still && s.Idle >= least && s.Idle <= most && w.life.pool.Unrest() == "" {
			return
		}
		if time.Now().After(deadline) {
			w.model.breach("no convergence in %s: %w\n%+v %s", patience, err, s, w.life.pool.Unrest())
			return
		}
	}
}
