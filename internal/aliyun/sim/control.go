package sim

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/nearpath/nearpath/internal/strict"
)

// control serves what drives the simulation from another process.
func (c *Cloud) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sim/calls", c.serveCalls)
	mux.HandleFunc("GET /sim/enis", c.serveENIs)
	mux.HandleFunc("GET /sim/faults", c.serveFaults)
	mux.HandleFunc("POST /sim/faults", c.serveInject)
	mux.HandleFunc("DELETE /sim/faults/{id}", c.onInjection((*Injection).Remove))
	mux.HandleFunc("POST /sim/faults/{id}/release", c.onInjection((*Injection).Release))
	mux.HandleFunc("POST /sim/clock", c.serveClock)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.mayControl(r.RemoteAddr) {
			http.NotFound(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (c *Cloud) mayControl(remote string) bool {
	switch c.cfg.Control {
	case ControlAnyone:
		return true
	case ControlNobody:
		return false
	}
	host, _, err := net.SplitHostPort(remote)
	return err == nil && net.ParseIP(host).IsLoopback()
}

// serveCalls writes the call log as JSON lines, after the call ?after= and of the action ?action= if they are given.
func (c *Cloud) serveCalls(w http.ResponseWriter, r *http.Request) {
	after := 0
	if text := r.URL.Query().Get("after"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			http.Error(w, strict.Fault{Path: "after", Value: text, Fix: "use the seq of a call"}.Error(), http.StatusBadRequest)
			return
		}
		after = n
	}
	action := r.URL.Query().Get("action")
	w.Header().Set("Content-Type", "application/jsonl")
	lines := json.NewEncoder(w)
	for _, call := range c.CallLog(after) {
		if action == "" || action == call.Action {
			_ = lines.Encode(call) // the client may be gone; there is nobody to tell
		}
	}
}

// serveENIs writes every ENI as it is now, whatever lags, as JSON lines in the shape of DescribeNetworkInterfaces.
func (c *Cloud) serveENIs(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	var all []object
	for _, e := range c.sortedENIs() {
		all = append(all, e.describe())
	}
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/jsonl")
	lines := json.NewEncoder(w)
	for _, e := range all {
		_ = lines.Encode(e) // the client may be gone; there is nobody to tell
	}
}

// An injectionView is an Injection as the control shows it.
type injectionView struct {
	ID      string `json:"id"`
	Fault   Fault  `json:"fault"`
	Left    int    `json:"left"`
	Met     int    `json:"met"`
	Hanging int    `json:"hanging"`
}

// serveFaults lists what was injected, with how many calls it may still meet; negative: any number.
func (c *Cloud) serveFaults(w http.ResponseWriter, _ *http.Request) {
	views := []injectionView{}
	for _, i := range c.injections() {
		views = append(views, i.view())
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(views) // the client may be gone; there is nobody to tell
}

func (i *Injection) view() injectionView {
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	return injectionView{ID: i.ID, Fault: i.fault, Left: i.left, Met: i.met, Hanging: i.waiting}
}

// serveInject injects the fault in the body and answers its ID.
func (c *Cloud) serveInject(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var f Fault
	if err == nil {
		err = readFault(text, &f, c.cfg.actionNames())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, http.StatusCreated, object{"id": c.Inject(f).ID})
}

func readFault(text []byte, f *Fault, known []string) error {
	if err := strict.Unmarshal(text, f); err != nil {
		return err
	}
	return strict.Check(f.check("", known))
}

func (c *Cloud) onInjection(do func(*Injection)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, i := range c.injections() {
			if i.ID == r.PathValue("id") {
				do(i)
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		http.NotFound(w, r)
	}
}

// injections are the faults there were, less those long forgotten.
func (c *Cloud) injections() []*Injection {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.injected)
}

// serveClock moves a ManualClock by the duration in {"advance": "1h"}.
func (c *Cloud) serveClock(w http.ResponseWriter, r *http.Request) {
	clock, ok := c.cfg.Clock.(*ManualClock)
	if !ok {
		http.Error(w, "the clock is the machine's: configure clock.manual", http.StatusConflict)
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var move struct {
		Advance duration `json:"advance"`
	}
	if err == nil {
		err = strict.Unmarshal(text, &move)
	}
	if err == nil && move.Advance <= 0 {
		err = errors.New("advance: use a duration above 0")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	clock.Advance(time.Duration(move.Advance))
	writeJSON(w, http.StatusOK, object{"now": clock.Now().UTC().Format(time.RFC3339Nano)})
}
