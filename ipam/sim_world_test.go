package ipam_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/ipam"
)

// Who is who in the simulated cloud.
const (
	thisNode  = "i-this"
	otherNode = "i-other"
	owner     = "cluster"
	ourType   = "ecs.test"
	zone      = sim.DefaultZone
)

var (
	errDead = errors.New("the process is dead")
	errDown = errors.New("no route to the cloud")
	errDisk = errors.New("the disk is full")
)

// A wire carries requests to a simulated cloud in the goroutine of the caller, as a network would: answers get lost when
// the cloud cuts the connection or the caller goes away.
type wire struct {
	cloud  http.Handler
	before func(url.Values) error // nil: nothing; an error keeps the request from the cloud
	after  func(url.Values) error // an error keeps the answer from the caller
	hidden func() string          // the ENI that listings leave out; nil: none
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (response *http.Response, err error) {
	params := r.URL.Query()
	if w.before != nil {
		if err := w.before(params); err != nil {
			return nil, err
		}
	}
	answer := httptest.NewRecorder()
	aborted := serve(w.cloud, answer, r)
	if w.after != nil {
		if err := w.after(params); err != nil {
			return nil, err
		}
	}
	if err := context.Cause(r.Context()); err != nil {
		return nil, err
	}
	if aborted {
		return nil, io.ErrUnexpectedEOF
	}
	if w.hidden != nil && params.Get("Action") == "DescribeNetworkInterfaces" && params.Get("NetworkInterfaceId.1") == "" {
		hide(answer, w.hidden())
	}
	return answer.Result(), nil
}

// hide leaves an ENI out of a listing.
func hide(answer *httptest.ResponseRecorder, id string) {
	var page struct {
		NetworkInterfaceSets struct {
			NetworkInterfaceSet []map[string]any
		}
	}
	if id == "" || answer.Code != http.StatusOK || json.Unmarshal(answer.Body.Bytes(), &page) != nil {
		return
	}
	page.NetworkInterfaceSets.NetworkInterfaceSet = slices.DeleteFunc(page.NetworkInterfaceSets.NetworkInterfaceSet, func(e map[string]any) bool {
		return e["NetworkInterfaceId"] == id
	})
	answer.Body.Reset()
	_ = json.NewEncoder(answer.Body).Encode(page) // it was JSON before
}

// serve reports whether the handler cut the connection.
func serve(h http.Handler, w http.ResponseWriter, r *http.Request) (aborted bool) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			aborted = true
		default:
			panic(p)
		}
	}()
	h.ServeHTTP(w, r)
	return false
}

// client makes a client that signs as people do. It tries once when once is set.
func (w *wire) client(tb testing.TB, rates map[string]int, tries int) *aliyun.Client {
	tb.Helper()
	c, err := aliyun.NewClient(aliyun.Config{
		RegionID: sim.DefaultRegion, Endpoint: "127.0.0.1:1", Transport: w, RateLimits: rates, Backoff: aliyun.Backoff{Tries: tries},
		Credentials: aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// A landscape is a cloud with two nodes of one cluster, and what is on them beside pods.
type landscape struct {
	tb     testing.TB
	cloud  *sim.Cloud
	kind   aliyun.InstanceType
	others *aliyun.Client // of somebody else; it tries once
	alien  map[string]aliyun.ENI
}

// landscapeOf makes a cloud of the configuration with this node of the type.
func landscapeOf(tb testing.TB, cfg sim.Config, kind aliyun.InstanceType) *landscape {
	tb.Helper()
	kind.ID = ourType
	cfg.InstanceTypes = append(slices.Clone(cfg.InstanceTypes), sim.InstanceType{InstanceType: kind, CPUs: 4})
	cloud, err := sim.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cloud.Close() })
	l := &landscape{tb: tb, cloud: cloud, kind: kind, alien: map[string]aliyun.ENI{}}
	many := map[string]int{}
	for _, action := range []string{"Create", "Attach", "Detach", "Delete", "Describe"} {
		many[action+"NetworkInterface"], many[action+"NetworkInterfaces"] = 100_000, 100_000
	}
	for _, action := range []string{"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "UnassignIpv6Addresses"} {
		many[action] = 100_000
	}
	l.others = (&wire{cloud: cloud.Handler()}).client(tb, many, 1)
	for _, id := range []string{thisNode, otherNode} {
		if _, _, err := cloud.RunInstance(tb.Context(), sim.InstanceSpec{ID: id, Type: ourType, VSwitchID: sim.DefaultNodeVSwitch}); err != nil {
			tb.Fatal(err)
		}
	}
	return l
}

// ours are the pool's ENIs as the cloud has them.
func (l *landscape) ours() []aliyun.ENI {
	return slices.DeleteFunc(l.cloud.ENIs(), func(e aliyun.ENI) bool { return !isOurs(e) })
}

func isOurs(e aliyun.ENI) bool {
	if e.InstanceID == "" {
		return e.Tags["nearpath"] == owner && e.Tags["nearpath-instance"] == thisNode
	}
	return e.Type == aliyun.TypeSecondary && e.Tags["nearpath"] == owner && e.InstanceID == thisNode
}

// addAlien makes an ENI that the pool has no business with, attached to the instance unless that is empty.
func (l *landscape) addAlien(vSwitch, instance string, tags map[string]string) (aliyun.ENI, error) {
	ctx := l.tb.Context()
	e, err := l.others.CreateENI(ctx, aliyun.CreateENI{
		VSwitchID: vSwitch, SecurityGroupIDs: []string{sim.DefaultSecurityGroup}, SecondaryIPs: 1, Tags: tags, Description: "somebody else's",
	})
	if err != nil {
		return e, err
	}
	for instance != "" && err == nil && l.find(e.ID).Status != aliyun.StatusInUse { // an attachment may fall back
		if l.find(e.ID).Status == aliyun.StatusAvailable {
			err = l.others.AttachENI(ctx, e.ID, instance)
		}
		time.Sleep(time.Second)
	}
	l.alien[e.ID] = l.find(e.ID)
	return e, err
}

func (l *landscape) find(id string) aliyun.ENI {
	all := l.cloud.ENIs()
	if i := slices.IndexFunc(all, func(e aliyun.ENI) bool { return e.ID == id }); i >= 0 {
		return all[i]
	}
	return aliyun.ENI{}
}

// fill leaves a vSwitch with n free addresses, or with more if it has them: others take the rest.
func (l *landscape) fill(vSwitch string, n int) {
	for free := l.free(vSwitch); free > n; free = l.free(vSwitch) {
		_, err := l.others.CreateENI(l.tb.Context(), aliyun.CreateENI{
			VSwitchID: vSwitch, SecurityGroupIDs: []string{sim.DefaultSecurityGroup}, SecondaryIPs: min(free-n, 49) - 1,
			Tags: map[string]string{"filler": vSwitch},
		})
		if err != nil {
			return
		}
	}
}

// empty takes back what fill did.
func (l *landscape) empty(vSwitch string) {
	for _, e := range l.cloud.ENIs() {
		if e.Tags["filler"] == vSwitch {
			_ = l.others.DeleteENI(l.tb.Context(), e.ID) // the cloud may be failing
		}
	}
}

func (l *landscape) free(vSwitch string) int {
	for range 20 { // the cloud may be throttling
		if list, err := l.others.DescribeVSwitches(l.tb.Context(), []string{vSwitch}); err == nil && len(list) == 1 {
			return list[0].AvailableIPs
		}
	}
	return 0
}

// checkAliens reports ENIs of others that are not as they were made.
func (l *landscape) checkAliens() []error {
	var errs []error
	for id, was := range l.alien {
		now := l.find(id)
		if now.Status != was.Status || now.InstanceID != was.InstanceID || !slices.Equal(now.PrivateIPs, was.PrivateIPs) || len(now.Tags) != len(was.Tags) {
			errs = append(errs, fmt.Errorf("the ENI %s of somebody else is %+v, was %+v", id, now, was))
		}
	}
	return errs
}

// A request of the pool as the cloud would see it.
type call struct {
	action string
	eniID  string
	token  string
	addrs  []netip.Addr
}

func callOf(params url.Values) call {
	c := call{action: params.Get("Action"), eniID: params.Get("NetworkInterfaceId"), token: params.Get("ClientToken")}
	for _, name := range []string{"PrivateIpAddress", "Ipv6Address"} {
		for i := 1; ; i++ {
			text := params.Get(name + "." + strconv.Itoa(i))
			if text == "" {
				break
			}
			if addr, err := netip.ParseAddr(text); err == nil {
				c.addrs = append(c.addrs, addr)
			}
		}
	}
	return c
}

func (c call) changes() bool { return !strings.HasPrefix(c.action, "Describe") }

// A life is one run of the pool's process. When it has ended, neither requests nor commits have any effect.
type life struct {
	pool   *ipam.Pool
	config ipam.Config
	ctx    context.Context
	end    context.CancelFunc
	run    chan error
	asking sync.WaitGroup // callers of Allocate
	buried bool

	dead     atomic.Bool
	steps    atomic.Int64 // the moments before and after each request and each commit
	endAt    atomic.Int64 // the step at which it dies; zero: none
	down     atomic.Bool  // the cloud cannot be reached
	failDisk atomic.Int64 // so many commits fail
	hidden   atomic.Value // string: the ENI that listings leave out
}

// begin opens a pool on the file and runs it. watch sees every request that reaches the cloud, before it does, and learns
// of its end by calling what it returns.
func begin(tb testing.TB, cloud *sim.Cloud, config ipam.Config, rates map[string]int, watch func(call) (ended func())) *life {
	tb.Helper()
	l := &life{config: config, run: make(chan error, 1)}
	l.ctx, l.end = context.WithCancel(context.Background())
	var under sync.Map
	l.hidden.Store("")
	w := &wire{cloud: cloud.Handler(), hidden: func() string { return l.hidden.Load().(string) }}
	w.before = func(params url.Values) error {
		if err := l.step(); err != nil {
			return err
		}
		if l.down.Load() {
			return errDown
		}
		if watch != nil {
			under.Store(params.Get("SignatureNonce"), watch(callOf(params)))
		}
		return nil
	}
	w.after = func(params url.Values) error {
		if ended, ok := under.LoadAndDelete(params.Get("SignatureNonce")); ok {
			ended.(func())()
		}
		if l.down.Load() {
			return errDown
		}
		return l.step()
	}
	l.config.Cloud = w.client(tb, rates, 0)
	pool, err := ipam.Open(l.config)
	if err != nil {
		tb.Fatal(err)
	}
	pool.SetFault(func(committed bool) error {
		if !l.dead.Load() && l.failDisk.Load() > 0 && l.failDisk.Add(-1) >= 0 {
			return errDisk
		}
		return l.step()
	})
	l.pool = pool
	tb.Cleanup(func() {
		if !l.buried {
			_ = os.Remove(l.bury(tb))
		}
	})
	go func() { l.run <- pool.Run(l.ctx) }()
	return l
}

// step returns errDead once the life is over.
func (l *life) step() error {
	if n := l.steps.Add(1); n == l.endAt.Load() {
		l.die()
	}
	if l.dead.Load() {
		return errDead
	}
	return nil
}

func (l *life) die() {
	l.dead.Store(true)
	l.end()
}

// bury waits for the goroutines of a life and returns a copy of its journal as it was on disk at its end.
func (l *life) bury(tb testing.TB) (path string) {
	tb.Helper()
	l.buried = true
	l.end()
	l.asking.Wait()
	if err := <-l.run; err != nil {
		tb.Errorf("Run: %v", err)
	}
	raw, err := os.ReadFile(l.config.Path)
	if err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(l.pool.Close(), os.Remove(l.config.Path)); err != nil {
		tb.Fatal(err)
	}
	name, n, _ := strings.Cut(filepath.Base(l.config.Path), ".")
	generation, _ := strconv.Atoi(n)
	path = filepath.Join(filepath.Dir(l.config.Path), name+"."+strconv.Itoa(generation+1))
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// links stand for the node's side of the ENIs. They fail now and then.
type links struct {
	mu    sync.Mutex // guards what follows
	rng   *rand.Rand
	fail  float64
	ready map[string]bool // shared ENIs that are routed, by ID
}

func newLinks(seed uint64) *links {
	return &links{rng: rand.New(rand.NewPCG(seed, 1)), ready: map[string]bool{}}
}

func (l *links) ExpectENI(context.Context, ipam.LeaseENI)           {}
func (l *links) EnsureENI(_ context.Context, e ipam.LeaseENI) error { return l.set(e, true) }
func (l *links) RemoveENI(_ context.Context, e ipam.LeaseENI) error { return l.set(e, false) }

func (l *links) set(e ipam.LeaseENI, ready bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rng.Float64() < l.fail {
		return fmt.Errorf("no link with MAC %s", e.MAC)
	}
	l.ready[e.ID] = ready
	return nil
}

func (l *links) routed(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready[id]
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// poolConfig is that of a pool on this node.
func poolConfig(tb testing.TB, settings ipam.Settings, families ...aliyun.Family) ipam.Config {
	tb.Helper()
	return ipam.Config{
		Path: filepath.Join(tb.TempDir(), "ipam.0"), Links: newLinks(1), InstanceID: thisNode, Owner: owner,
		Families: families, Settings: settings, Log: quiet(),
	}
}

func keyOf(i int) ipam.Key {
	return ipam.Key{Network: "pods", ContainerID: "c" + strconv.Itoa(i), IfName: "eth0"}
}
