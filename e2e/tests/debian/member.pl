# A member: answers each request on 8081 with its name, and gives back each line on 8082.
use strict;
use IO::Socket::INET;
$SIG{CHLD} = 'IGNORE';
sub serve {
    my ($port, $work) = @_;
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 128, ReuseAddr => 1) or die;
    while (1) {
        my $client = $listener->accept or next;
        if (!fork) { $work->($client); exit }
        close $client;
    }
}
$| = 1;
if (!fork) {
    serve(8082, sub { my $c = shift; $c->autoflush(1); while (my $line = <$c>) { print $c $line } });
}
serve(8081, sub {
    my $c = shift;
    while (my $line = <$c>) { last if $line eq "\r\n" }
    print $c "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nmember\n";
});
