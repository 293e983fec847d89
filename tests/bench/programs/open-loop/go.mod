module sidegate/bench/open-loop

go 1.19
