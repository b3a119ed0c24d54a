//go:build node

package crash

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// Actions that change something.
const (
	createENI   = "CreateNetworkInterface"
	attachENI   = "AttachNetworkInterface"
	detachENI   = "DetachNetworkInterface"
	deleteENI   = "DeleteNetworkInterface"
	assignIPs   = "AssignPrivateIpAddresses"
	unassignIPs = "UnassignPrivateIpAddresses"
)

var mutations = []string{createENI, attachENI, detachENI, deleteENI, assignIPs, unassignIPs}

// Tags of the pool's ENIs, see docs/pod-network.md.
const (
	tagInstance = "nearpath-instance"
	tagIntent   = "nearpath-intent"
)

// A trap kills the agent when what it waits for happens for the nth time, once.
type trap struct {
	nth    int
	kill   func()
	sprung chan struct{}

	mu   sync.Mutex // guards what follows
	met  int
	idle bool // it kills no more
}

func newTrap(nth int, kill func()) *trap {
	return &trap{nth: nth, kill: kill, sprung: make(chan struct{})}
}

// meet reports whether this was the nth time. Then the agent is dead when it returns.
func (tr *trap) meet() bool {
	tr.mu.Lock()
	if !tr.idle {
		tr.met++
	}
	hit := !tr.idle && tr.met == tr.nth
	tr.mu.Unlock()
	if hit {
		tr.kill()
		close(tr.sprung)
	}
	return hit
}

// disarm ends the trap and reports whether it has killed. It waits for a kill that is under way: what dies of it may be
// seen before it is over.
func (tr *trap) disarm() bool {
	tr.mu.Lock()
	tr.idle = true
	hit := tr.met >= tr.nth
	tr.mu.Unlock()
	if hit {
		<-tr.sprung
	}
	return hit
}

// A moment is when a call meets a trap.
type moment struct {
	action string
	// after says that the call was carried out and not answered; otherwise it has arrived and nothing was done.
	after bool
}

func (m moment) String() string {
	if m.after {
		return m.action + ", after its effect"
	}
	return m.action + ", before its effect"
}

// A gate stands before the cloud's API. It springs traps, can shut, and judges every change that an agent asks for.
type gate struct {
	instance string // whose agent it is
	limit    int    // ENIs that the agent may have
	books    *books
	sim      *sim.Cloud

	mu       sync.Mutex // guards what follows
	armed    *trap
	at       moment
	shut     bool
	creating map[string]int // ClientTokens of creations under way
	log      []string
	faults   []string
}

// arm sets the trap, nil for none.
func (g *gate) arm(at moment, tr *trap) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at, g.armed = at, tr
}

// setShut makes the API cut every connection.
func (g *gate) setShut(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
}

func (g *gate) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" || r.ParseForm() != nil { // what cannot be parsed is the cloud's to refuse
			next.ServeHTTP(w, r)
			return
		}
		action := r.Form.Get("Action")
		if g.isShut() || g.springs(moment{action, false}) {
			panic(http.ErrAbortHandler) // net/http's way to cut the connection
		}
		g.arrives(action, r.Form)
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		g.leaves(action, r.Form, answer.Code)
		if answer.Code == http.StatusOK && g.springs(moment{action, true}) {
			panic(http.ErrAbortHandler)
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // the client may be gone
	})
}

func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

func (g *gate) springs(m moment) bool {
	g.mu.Lock()
	tr, at := g.armed, g.at
	g.mu.Unlock()
	return tr != nil && m == at && tr.meet()
}

// ours are the ENIs of the agent's pool as the cloud has them.
func (g *gate) ours() (enis []aliyun.ENI) {
	for _, e := range g.sim.ENIs() {
		if e.Tags[tagInstance] == g.instance {
			enis = append(enis, e)
		}
	}
	return enis
}

// arrives judges a call before it is carried out.
func (g *gate) arrives(action string, form url.Values) {
	if !slices.Contains(mutations, action) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if action == createENI {
		g.creating[form.Get("ClientToken")]++
		g.judgeCount()
		return
	}
	id := form.Get("NetworkInterfaceId")
	enis := g.sim.ENIs()
	i := slices.IndexFunc(enis, func(e aliyun.ENI) bool { return e.ID == id })
	if i < 0 {
		return // the cloud refuses it
	}
	if enis[i].Tags[tagInstance] != g.instance {
		g.fault("%s of %s, which is not the pool's", action, id)
	}
	for _, addr := range givenUp(action, form, enis[i]) {
		if err := g.books.mayGo(addr); err != nil {
			g.fault("%s of %s takes %s: %v", action, id, addr, err)
		}
	}
}

// givenUp lists the addresses that a call takes from the node.
func givenUp(action string, form url.Values, e aliyun.ENI) (addrs []netip.Addr) {
	switch action {
	case detachENI, deleteENI:
		return e.PrivateIPs
	case unassignIPs:
		for name, values := range form {
			if addr, err := netip.ParseAddr(values[0]); err == nil && strings.HasPrefix(name, "PrivateIpAddress.") {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}

// judgeCount runs under the lock: the ENIs that exist and those about to be created are never too many.
func (g *gate) judgeCount() {
	ours := g.ours()
	count := len(ours)
	for token := range g.creating {
		if !slices.ContainsFunc(ours, func(e aliyun.ENI) bool { return e.Tags[tagIntent] == token }) {
			count++
		}
	}
	if count > g.limit {
		g.fault("%d ENIs exist or are being created, of %d allowed", count, g.limit)
	}
}

func (g *gate) leaves(action string, form url.Values, code int) {
	if !slices.Contains(mutations, action) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log = append(g.log, fmt.Sprintf("%s %s %s: %d", time.Now().Format("15:04:05.000"), action, form.Get("NetworkInterfaceId"), code))
	if action != createENI {
		return
	}
	g.judgeCount()
	token := form.Get("ClientToken")
	if g.creating[token]--; g.creating[token] == 0 {
		delete(g.creating, token)
	}
}

// fault runs under the lock.
func (g *gate) fault(format string, args ...any) {
	g.faults = append(g.faults, fmt.Sprintf(format, args...))
}

// verdict returns what was wrong since the start.
func (g *gate) verdict() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.faults)
}

// history is the last changes that were asked for.
func (g *gate) history() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.log[max(0, len(g.log)-40):], "\n")
}
