package kubeapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// list answers with all objects of a kind.
func (s *Server) list(w http.ResponseWriter, q request) {
	s.mu.Lock()
	items, revision := q.sorted(), s.revision
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, `{"kind":"%sList","apiVersion":%q,"metadata":{"resourceVersion":"%d"},"items":[`, q.Kind.Kind, q.groupVersion(), revision)
	for i, item := range items {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		_, _ = out.Write(item)
	}
	fmt.Fprint(out, "]}")
	_ = out.Flush() // a client that is gone needs no answer
}

// watch sends what happens, from a revision on or after all that is there, until the client is gone or shall not any more.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, q request, ended <-chan struct{}) {
	query := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriterSize(w, 1<<16)
	from, _ := strconv.Atoi(query.Get("resourceVersion")) // what is no number is the beginning
	s.mu.Lock()
	var first []json.RawMessage
	if query.Get("sendInitialEvents") == "true" || query.Get("resourceVersion") == "" {
		first, from = q.sorted(), s.revision
	}
	s.mu.Unlock()
	for _, object := range first {
		event(out, "ADDED", object)
	}
	if query.Get("sendInitialEvents") == "true" {
		event(out, "BOOKMARK", fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d","annotations":{%q:"true"}}}`,
			q.Kind.Kind, q.groupVersion(), from, metav1.InitialEventsAnnotationKey))
	}
	for {
		s.mu.Lock()
		log, more := q.log, q.more
		s.mu.Unlock()
		for i := after(log, from); i < len(log); i++ {
			event(out, log[i].what, log[i].object)
			from = log[i].revision
		}
		if out.Flush() != nil {
			return
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		select {
		case <-more:
		case <-ended:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// after finds the first change after a revision.
func after(log []change, revision int) int {
	i := len(log)
	for i > 0 && log[i-1].revision > revision {
		i--
	}
	return i
}

func event(out *bufio.Writer, what string, object []byte) {
	fmt.Fprintf(out, `{"type":%q,"object":`, what)
	_, _ = out.Write(object) // errors stay until Flush
	_, _ = out.WriteString("}\n")
}
