"""Build the page's list of plans and the view of one plan, independent of Airflow and HTTP."""
