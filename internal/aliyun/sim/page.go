package sim

import "strconv"

// A page is the part of a list that an answer carries.
type page struct {
	start, end   int
	total        int
	number, size int    // of numbered pages
	next         string // token of the page that follows, if there is one
	byToken      bool
}

// numberedPage reads PageNumber and PageSize.
func numberedPage(in input, total, maxSize int) (page, error) {
	number, err := in.number("PageNumber", 1<<20, 1)
	if err != nil {
		return page{}, err
	}
	size, err := in.number("PageSize", maxSize, 10)
	if err != nil {
		return page{}, err
	}
	start := min((number-1)*size, total)
	return page{start: start, end: min(start+size, total), total: total, number: number, size: size}, nil
}

// tokenPage reads NextToken and MaxResults if there are any, and PageNumber and PageSize otherwise. Items are in the
// order of their sequence numbers; a token is the number of the last item given, so pages do not shift when others go.
func tokenPage(in input, seqs []int, maxResults int) (page, error) {
	if in.text("NextToken") == "" && in.text("MaxResults") == "" {
		return numberedPage(in, len(seqs), 100)
	}
	size, err := in.number("MaxResults", maxResults, 10)
	if err != nil {
		return page{}, err
	}
	after, err := in.number("NextToken", 1<<62, 0)
	if err != nil {
		return page{}, err
	}
	pg := page{total: len(seqs), byToken: true}
	for pg.start < len(seqs) && seqs[pg.start] <= after {
		pg.start++
	}
	pg.end = min(pg.start+size, len(seqs))
	if pg.end < len(seqs) {
		pg.next = strconv.Itoa(seqs[pg.end-1])
	}
	return pg, nil
}

// describe adds the paging fields to an answer.
func (p page) describe(answer object) object {
	answer["TotalCount"] = p.total
	if p.byToken {
		answer["NextToken"] = p.next
		return answer
	}
	answer["PageNumber"], answer["PageSize"] = p.number, p.size
	return answer
}
